package scenario

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"dmps/client/nbddev"
	"dmps/internal/swapctl"
)

// Of the NBD protocol.
const (
	plainFlags   = 1 | 1<<2 | 1<<5 // HAS_FLAGS, SEND_FLUSH, SEND_TRIM
	requestMagic = 0x25609513
	replyMagic   = 0x67446698
	plainRead    = 0
	plainWrite   = 1

	plainDisconnect = 2
)

// How the kernel reaches a plain device's server.
const (
	plainUnix = "unix"
	plainTCP  = "tcp"
)

// plainDevice starts a server and formats its device as swap space.
func plainDevice(ctx context.Context, g *Guest, how string) (path string, srv *process, err error) {
	const size = 128 << 20
	path = "/dev/nbd0"
	srv, err = g.start("plain", "", "/init", "plain", "0", fmt.Sprint(size), how)
	if err != nil {
		return "", nil, err
	}
	return path, srv, until(ctx, 20*time.Second, "the plain device", func() error {
		if err := srv.alive(); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		n, err := blockSize64(f)
		if err == nil && n != size {
			err = fmt.Errorf("it has %d bytes", n)
		}
		if err == nil {
			_, err = swapctl.Format(f, size, "plain", "", false)
		}
		return errors.Join(err, f.Close())
	})
}

// Plain serves a plain NBD device from this process's memory, and nothing else:
// what is there without dmps. It ends when the device is disconnected.
func Plain(ctx context.Context, index int, size int64, how string) error {
	d, err := nbddev.OpenDriver()
	if err != nil {
		return err
	}
	var kernel *os.File
	var ours net.Conn
	switch how {
	case plainUnix:
		kernel, ours, err = nbddev.Pair()
	case plainTCP:
		kernel, ours, err = tcpPair()
	default:
		err = fmt.Errorf("no such connection: %q", how)
	}
	if err != nil {
		return err
	}
	mem := make([]byte, size)
	for at := 0; at < len(mem); at += page {
		mem[at] = 1 // is there before it is needed
	}
	clear(mem)
	if _, err := d.Connect(nbddev.Connection{
		Index: index, Sockets: []int{int(kernel.Fd())}, Size: size, BlockSize: page, Flags: plainFlags,
		Timeout: 5 * time.Second,
	}); err != nil {
		return err
	}
	if err := errors.Join(kernel.Close(), d.Close()); err != nil {
		return err
	}
	return servePlain(ours, mem)
}

// tcpPair is a connection with both its ends.
func tcpPair() (kernel *os.File, ours net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, fmt.Errorf("plain NBD server: %w", err)
	}
	defer l.Close() // whatever it says, the pair is there
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, nil, fmt.Errorf("plain NBD server: %w", err)
	}
	if ours, err = l.Accept(); err == nil {
		kernel, err = c.(*net.TCPConn).File()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("plain NBD server: %w", err)
	}
	return kernel, ours, c.Close()
}

// disconnect ends a plain device.
func disconnect(index int) error {
	d, err := nbddev.OpenDriver()
	if err != nil {
		return err
	}
	return errors.Join(d.Disconnect(index), d.Close())
}

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
		if cmd == plainDisconnect {
			return nil // it has no answer
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
