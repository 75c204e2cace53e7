package scenario

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Of the NBD protocol.
const (
	plainFlags   = 1 | 1<<2 | 1<<5 // HAS_FLAGS, SEND_FLUSH, SEND_TRIM
	requestMagic = 0x25609513
	replyMagic   = 0x67446698
	plainRead    = 0
	plainWrite   = 1
)

// servePlain answers the kernel's requests from mem, one after the other.
func servePlain(conn io.ReadWriter, mem []byte) error {
	var req [28]byte
	reply := make([]byte, 16, 16+1<<20)
	binary.BigEndian.PutUint32(reply, replyMagic)
	for {
		if _, err := io.ReadFull(conn, req[:]); err != nil {
			return fmt.Errorf("plain NBD server: %w", err)
		}
		if m := binary.BigEndian.Uint32(req[:]); m != requestMagic {
			return fmt.Errorf("plain NBD server: magic %#x", m)
		}
		cmd := binary.BigEndian.Uint16(req[6:])
		copy(reply[8:16], req[8:16])
		off, n := binary.BigEndian.Uint64(req[16:]), uint64(binary.BigEndian.Uint32(req[24:]))
		if off+n > uint64(len(mem)) {
			return fmt.Errorf("plain NBD server: %d bytes at %d", n, off)
		}
		out := reply[:16]
		switch cmd {
		case plainRead:
			out = append(out, mem[off:off+n]...)
		case plainWrite:
			if _, err := io.ReadFull(conn, mem[off:off+n]); err != nil {
				return fmt.Errorf("plain NBD server: %w", err)
			}
		}
		if _, err := conn.Write(out); err != nil {
			return fmt.Errorf("plain NBD server: %w", err)
		}
	}
}
