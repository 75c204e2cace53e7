package nbdclient

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// MaxRequest is the largest read or write that is sent as one request, in
// bytes: NBD's customary limit.
const MaxRequest = 32 << 20

// ErrClosed is what calls return that were pending, or are made, when the
// connection has ended. Whether a pending write was done is not known.
var ErrClosed = errors.New("NBD connection closed")

// Conn is a connection to one export. Its methods may be called from any
// goroutine.
type Conn struct {
	addr Addr
	info Info
	c    net.Conn

	send struct {
		sync.Mutex // holds the order of requests on the socket
		head       [28]byte
		vec        [2][]byte
	}
	calls struct {
		sync.Mutex
		pending map[uint64]*call
		next    uint64
		err     error // set once: the connection is over
	}
	done chan struct{} // closed when the receiver has ended
}

// call is one request in flight.
type call struct {
	into []byte     // where the payload of a read goes
	done chan error // buffered: the receiver never blocks on it
}

var callPool = sync.Pool{New: func() any { return &call{done: make(chan error, 1)} }}

// Dial connects and negotiates. ctx bounds both, not the life of the Conn.
func Dial(ctx context.Context, a Addr) (*Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, a.Network, a.Address)
	if err != nil {
		return nil, fmt.Errorf("connecting to NBD server %s: %w", a, err)
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	info, err := Negotiate(c, a.Export)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", err, ctx.Err())
		}
		return nil, fmt.Errorf("NBD server %s: %w", a, err)
	}
	conn := &Conn{addr: a, info: info, c: c, done: make(chan struct{})}
	conn.calls.pending = map[uint64]*call{}
	go conn.receive()
	return conn, nil
}

// Info is what the server said of the export.
func (c *Conn) Info() Info { return c.info }

// Size of the export in bytes.
func (c *Conn) Size() int64 { return c.info.Size }

// ReadAt is io.ReaderAt: one request for each MaxRequest bytes.
func (c *Conn) ReadAt(p []byte, off int64) (int, error) {
	return inPieces(p, off, func(p []byte, off int64) error {
		return c.do(cmdRead, off, uint32(len(p)), nil, p)
	})
}

// WriteAt is io.WriterAt: one request for each MaxRequest bytes.
func (c *Conn) WriteAt(p []byte, off int64) (int, error) {
	return inPieces(p, off, func(p []byte, off int64) error {
		return c.do(cmdWrite, off, uint32(len(p)), p, nil)
	})
}

func inPieces(p []byte, off int64, f func([]byte, int64) error) (int, error) {
	n := 0
	for n < len(p) {
		piece := p[n:min(len(p), n+MaxRequest)]
		if err := f(piece, off+int64(n)); err != nil {
			return n, err
		}
		n += len(piece)
	}
	return n, nil
}

// Trim says that n bytes from off on are not needed any more.
func (c *Conn) Trim(off int64, n uint32) error { return c.do(cmdTrim, off, n, nil, nil) }

// Flush asks for everything answered so far to be safe.
func (c *Conn) Flush() error { return c.do(cmdFlush, 0, 0, nil, nil) }

func (c *Conn) do(cmd uint16, off int64, n uint32, payload, into []byte) error {
	k := callPool.Get().(*call)
	k.into = into
	id, err := c.register(k)
	if err != nil {
		return err
	}
	if err := c.write(cmd, id, off, n, payload); err != nil {
		c.end(err)
	}
	err = <-k.done
	k.into = nil
	callPool.Put(k)
	if err != nil {
		return fmt.Errorf("%s of %d bytes at %d: %w", commandNames[cmd], n, off, err)
	}
	return nil
}

var commandNames = map[uint16]string{cmdRead: "read", cmdWrite: "write", cmdTrim: "trim", cmdFlush: "flush"}

func (c *Conn) register(k *call) (uint64, error) {
	c.calls.Lock()
	defer c.calls.Unlock()
	if c.calls.err != nil {
		return 0, c.calls.err
	}
	c.calls.next++
	c.calls.pending[c.calls.next] = k
	return c.calls.next, nil
}

func (c *Conn) write(cmd uint16, id uint64, off int64, n uint32, payload []byte) error {
	c.send.Lock()
	defer c.send.Unlock()
	be := binary.BigEndian
	h := c.send.head[:]
	be.PutUint32(h, magicRequest)
	be.PutUint16(h[4:], 0)
	be.PutUint16(h[6:], cmd)
	be.PutUint64(h[8:], id)
	be.PutUint64(h[16:], uint64(off))
	be.PutUint32(h[24:], n)
	if payload == nil {
		_, err := c.c.Write(h)
		return err
	}
	c.send.vec = [2][]byte{h, payload}
	bufs := net.Buffers(c.send.vec[:])
	_, err := bufs.WriteTo(c.c)
	return err
}

// receive reads replies until the connection ends, then fails what is pending.
func (c *Conn) receive() {
	defer close(c.done)
	r := bufio.NewReaderSize(c.c, 64<<10)
	for {
		if err := c.receiveOne(r); err != nil {
			c.end(err)
			break
		}
	}
	c.calls.Lock()
	defer c.calls.Unlock()
	for id, k := range c.calls.pending {
		delete(c.calls.pending, id)
		k.done <- c.calls.err
	}
}

func (c *Conn) receiveOne(r *bufio.Reader) error {
	be := binary.BigEndian
	h, err := r.Peek(16)
	if err != nil {
		return err
	}
	magic, errno, id := be.Uint32(h), be.Uint32(h[4:]), be.Uint64(h[8:])
	r.Discard(16) // cannot fail: 16 bytes are there
	if magic != magicSimple {
		return fmt.Errorf("malformed reply: magic %#x", magic)
	}
	c.calls.Lock()
	k := c.calls.pending[id]
	delete(c.calls.pending, id)
	c.calls.Unlock()
	if k == nil {
		return fmt.Errorf("reply to request %d, which is not in flight", id)
	}
	if errno != 0 {
		k.done <- Errno(errno)
		return nil
	}
	if _, err := io.ReadFull(r, k.into); err != nil {
		k.done <- fmt.Errorf("%w: %w", ErrClosed, err)
		return err
	}
	k.done <- nil
	return nil
}

// end closes the socket, which ends the receiver; the first cause stands.
func (c *Conn) end(cause error) {
	c.calls.Lock()
	if c.calls.err == nil {
		c.calls.err = fmt.Errorf("%w: %w", ErrClosed, cause)
	}
	c.calls.Unlock()
	c.c.Close()
}

// Close says goodbye, ends the connection and waits until every pending call
// has returned.
func (c *Conn) Close() error {
	// A server that does not read must not hold up the goodbye.
	err := c.c.SetWriteDeadline(time.Now().Add(time.Second))
	if err == nil {
		err = c.write(cmdDisc, 0, 0, 0, nil)
	}
	c.end(net.ErrClosed)
	<-c.done
	if errors.Is(err, net.ErrClosed) {
		err = nil // the server was faster, or a second Close
	}
	return err
}
