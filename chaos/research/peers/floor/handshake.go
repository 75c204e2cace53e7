package floor

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

// handshake is as much of NBD's fixed newstyle as a client needs to come to
// the transmission: every option but GO is refused.
func handshake(c net.Conn, size int64) error {
	const (
		magic      = 0x4e42444d41474943 // NBDMAGIC
		ihaveopt   = 0x49484156454f5054
		replyMagic = 0x3e889045565a9

		optAbort, optGo = 2, 7
		repAck, repInfo = 1, 3
		repErrUnsup     = 1<<31 + 1
		infoExport      = 0
	)
	hello := binary.BigEndian.AppendUint64(nil, magic)
	hello = binary.BigEndian.AppendUint64(hello, ihaveopt)
	hello = binary.BigEndian.AppendUint16(hello, 3) // fixed newstyle, no zeroes
	if _, err := c.Write(hello); err != nil {
		return err
	}
	var b [16]byte
	if _, err := io.ReadFull(c, b[:4]); err != nil {
		return err
	}
	reply := func(opt, kind uint32, data []byte) error {
		p := binary.BigEndian.AppendUint64(nil, replyMagic)
		p = binary.BigEndian.AppendUint32(p, opt)
		p = binary.BigEndian.AppendUint32(p, kind)
		p = binary.BigEndian.AppendUint32(p, uint32(len(data)))
		_, err := c.Write(append(p, data...))
		return err
	}
	for {
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return err
		}
		opt, n := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
		if binary.BigEndian.Uint64(b[:]) != ihaveopt || n > 4096 {
			return fmt.Errorf("floor: option without its magic, or of %d bytes", n)
		}
		if _, err := io.CopyN(io.Discard, c, int64(n)); err != nil {
			return err
		}
		switch opt {
		case optGo:
			info := binary.BigEndian.AppendUint16(nil, infoExport)
			info = binary.BigEndian.AppendUint64(info, uint64(size))
			info = binary.BigEndian.AppendUint16(info, 1) // flags are valid; nothing is offered
			if err := reply(opt, repInfo, info); err != nil {
				return err
			}
			return reply(opt, repAck, nil)
		case optAbort:
			return io.EOF
		default:
			if err := reply(opt, repErrUnsup, nil); err != nil {
				return err
			}
		}
	}
}
