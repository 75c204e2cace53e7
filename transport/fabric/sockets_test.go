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

// turnOf is n bytes of buf, others each turn: requests that are in flight together
// do not lie in the same memory either.
func turnOf(buf []byte, turn, n int) []byte {
	at := turn * n % (len(buf) / n * n)
	return buf[at : at+n]
}

// serveSockets answers one connection.
func serveSockets(l net.Listener) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	var head [socketHead]byte
	buf := make([]byte, fabric.RawBytes)
	for turn := 0; ; turn++ {
		if _, err := io.ReadFull(c, head[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		mem := turnOf(buf, turn, int(binary.LittleEndian.Uint32(head[4:])))
		answer := mem
		if transport.Op(head[0]) == transport.OpWrite {
			if _, err := io.ReadFull(c, mem); err != nil {
				return err
			}
			answer = mem[:1]
		}
		if _, err := c.Write(answer); err != nil {
			return err
		}
	}
}

// socketMover is a socket, and nothing else: head and bytes are one writev(2), an
// answer is read by itself. With several in flight a goroutine sends, so that the
// two ends do not wait for each other.
type socketMover struct {
	t    *testing.T
	c    *child
	nc   net.Conn
	in   []byte // what comes
	out  []byte
	head [socketHead]byte
	turn int // of answers
	sent int
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
	t.Cleanup(func() { nc.Close() })
	return &socketMover{t: t, c: c, nc: nc, in: make([]byte, fabric.RawBytes), out: make([]byte, fabric.RawBytes)}
}

// send fails when the connection does, which the one that waits for the answer
// finds as well.
func (m *socketMover) send(a socketAsk) {
	m.head[0] = byte(a.op)
	binary.LittleEndian.PutUint32(m.head[4:], uint32(a.size))
	b := net.Buffers{m.head[:]}
	if a.op == transport.OpWrite {
		b = append(b, turnOf(m.out, m.sent, a.size))
	}
	m.sent++
	_, _ = b.WriteTo(m.nc)
}

func (m *socketMover) fit(_ transport.Op, size int) int { return size }

func (m *socketMover) once(op transport.Op, size int) error {
	m.send(socketAsk{op, size})
	return m.end(op, size)
}

func (m *socketMover) several(op transport.Op, size, depth int, d time.Duration) (int, time.Duration, error) {
	asks, sent := make(chan socketAsk, depth), make(chan struct{})
	go func() {
		defer close(sent)
		for a := range asks {
			m.send(a)
		}
	}()
	defer func() {
		close(asks)
		<-sent
	}()
	return flow(depth, d, func() error {
		asks <- socketAsk{op, size}
		return nil
	}, func() (int, error) { return 1, m.end(op, size) })
}

func (m *socketMover) end(op transport.Op, size int) error {
	if op == transport.OpWrite {
		size = 1
	}
	_, err := io.ReadFull(m.nc, turnOf(m.in, m.turn, size))
	m.turn++
	return err
}

func (m *socketMover) cpu() time.Duration { return m.c.cpu(m.t) }
