//go:build fabric && cgo

package fabric_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"dmps/transport"
	"dmps/transport/fabric"
)

// socketHead asks for a transfer: u32 operation, u32 bytes. A write is followed by
// its bytes and answered with one; a read is answered with its bytes.
const socketHead = 8

// serveSockets answers one connection.
func serveSockets(l net.Listener) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	var head [socketHead]byte
	buf := make([]byte, fabric.RawBytes)
	for {
		if _, err := io.ReadFull(c, head[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		n := binary.LittleEndian.Uint32(head[4:])
		answer := buf[:1]
		if transport.Op(head[0]) == transport.OpWrite {
			if _, err := io.ReadFull(c, buf[:n]); err != nil {
				return err
			}
		} else {
			answer = buf[:n]
		}
		if _, err := c.Write(answer); err != nil {
			return err
		}
	}
}

// socketMover is a socket, and nothing else: head and bytes are one write(2), an
// answer is read by itself. What is alone is sent at once; with several in flight
// a goroutine sends, so that the two ends do not wait for each other.
type socketMover struct {
	t    *testing.T
	c    *child
	nc   net.Conn
	in   []byte // what comes
	out  []byte
	asks chan socketAsk
	want []int // bytes of the answers that are to come
}

type socketAsk struct {
	op   transport.Op
	size int
}

func newSockets(t *testing.T) mover {
	c := startChild(t, childSpec{Sockets: true})
	nc, err := net.Dial("tcp", c.addr)
	if err != nil {
		t.Fatal(err)
	}
	m := &socketMover{t: t, c: c, nc: nc, in: make([]byte, fabric.RawBytes), out: make([]byte, socketHead+fabric.RawBytes), asks: make(chan socketAsk, 32)}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for a := range m.asks {
			m.send(a)
		}
	}()
	t.Cleanup(func() {
		close(m.asks)
		<-sent
		nc.Close()
	})
	return m
}

// send fails when the connection does, which the one that waits for the answer
// finds as well.
func (m *socketMover) send(a socketAsk) {
	m.out[0] = byte(a.op)
	binary.LittleEndian.PutUint32(m.out[4:], uint32(a.size))
	n := socketHead
	if a.op == transport.OpWrite {
		n += a.size
	}
	_, _ = m.nc.Write(m.out[:n])
}

func (m *socketMover) fit(_ transport.Op, size int) int { return size }

func (m *socketMover) start(op transport.Op, size int) error {
	answer := 1
	if op == transport.OpRead {
		answer = size
	}
	m.want = append(m.want, answer)
	if len(m.want) > 1 {
		m.asks <- socketAsk{op, size}
		return nil
	}
	m.send(socketAsk{op, size}) // all before it were answered: the goroutine sends nothing
	return nil
}

func (m *socketMover) kick() {}

func (m *socketMover) end() (int, error) {
	_, err := io.ReadFull(m.nc, m.in[:m.want[0]])
	m.want = append(m.want[:0], m.want[1:]...)
	return 1, err
}

func (m *socketMover) cpu() time.Duration { return m.c.cpu(m.t) }
