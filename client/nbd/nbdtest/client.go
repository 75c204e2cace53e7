package nbdtest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
)

// Commands and flags, as on the wire.
const (
	Read        = uint16(0)
	Write       = uint16(1)
	Disconnect  = uint16(2)
	Flush       = uint16(3)
	Trim        = uint16(4)
	Cache       = uint16(5)
	WriteZeroes = uint16(6)
	BlockStatus = uint16(7)

	FUA      = uint16(1)
	NoHole   = uint16(2)
	DF       = uint16(4)
	ReqOne   = uint16(8)
	FastZero = uint16(16)
)

// Options says how a Client negotiates.
type Options struct {
	Export     string
	Simple     bool // no structured replies, and so no block status
	ExportName bool // enter by NBD_OPT_EXPORT_NAME instead of NBD_OPT_GO
}

// Client is one connection in its transmission phase. Its methods may be called
// from any goroutine; any number of requests may be under way.
type Client struct {
	Conn  net.Conn
	Size  int64
	Flags uint16 // transmission flags

	structured bool
	in         *bufio.Reader
	over       chan struct{} // closed when the reader has ended

	mu     sync.Mutex // also held while a request is sent
	calls  map[uint64]*pending
	handle uint64
	err    error // why the reader ended
}

// Reply is the answer to one request.
type Reply struct {
	Errno   uint32
	Message string
	// ErrOffset is the offset of an error chunk that had one, else -1.
	ErrOffset int64
	Data      []byte   // of a read
	Chunks    int      // content chunks of a structured read
	Holes     int      // those of them that were holes
	Extents   []Extent // of a block status
	Err       error    // the connection ended first
}

// Extent is one descriptor of base:allocation.
type Extent struct{ Len, Flags uint32 }

type pending struct {
	off   int64
	reply Reply
	got   int // bytes of a read that were covered
	ch    chan Reply
}

// DialURI opens the socket that a URI of the forms nbd://HOST:PORT/EXPORT and
// nbd+unix:///EXPORT?socket=PATH names.
func DialURI(uri string) (net.Conn, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "nbd":
		return net.Dial("tcp", u.Host)
	case "nbd+unix":
		return net.Dial("unix", u.Query().Get("socket"))
	}
	return nil, fmt.Errorf("nbdtest: scheme of %q", uri)
}

// Connect dials and negotiates.
func Connect(uri string, o Options) (*Client, error) {
	nc, err := DialURI(uri)
	if err != nil {
		return nil, err
	}
	c := &Client{Conn: nc, in: bufio.NewReaderSize(nc, 256<<10), calls: make(map[uint64]*pending), over: make(chan struct{})}
	if err := c.negotiate(o); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	go c.read()
	return c, nil
}

func (c *Client) negotiate(o Options) error {
	var hello [18]byte
	if _, err := io.ReadFull(c.in, hello[:]); err != nil {
		return err
	}
	if string(hello[:16]) != "NBDMAGICIHAVEOPT" || binary.BigEndian.Uint16(hello[16:]) != 3 {
		return fmt.Errorf("nbdtest: greeting %q", hello)
	}
	out := []byte{0, 0, 0, 3}
	name := binary.BigEndian.AppendUint32(nil, uint32(len(o.Export)))
	name = append(name, o.Export...)
	var want []uint32 // options that are to be acknowledged
	if !o.Simple {
		out = Option(out, 8, nil)
		out = Option(out, 10, append(append(name[:len(name):len(name)], 0, 0, 0, 1, 0, 0, 0, 15), "base:allocation"...))
		want = append(want, 8, 10)
		c.structured = true
	}
	if o.ExportName {
		out = Option(out, 1, []byte(o.Export))
	} else {
		out = Option(out, 7, append(name[:len(name):len(name)], 0, 0))
		want = append(want, 7)
	}
	if _, err := c.Conn.Write(out); err != nil {
		return err
	}
	for len(want) > 0 {
		opt, typ, data, err := ReadOptionReply(c.in)
		switch {
		case err != nil:
			return err
		case opt != want[0] || typ&(1<<31) != 0:
			return fmt.Errorf("nbdtest: option %d: reply %#x to %d: %s", want[0], typ, opt, data)
		case typ == 3 && len(data) == 12 && data[0]|data[1] == 0:
			c.Size = int64(binary.BigEndian.Uint64(data[2:]))
			c.Flags = binary.BigEndian.Uint16(data[10:])
		case typ == 1:
			want = want[1:]
		}
	}
	if o.ExportName {
		var b [10]byte
		if _, err := io.ReadFull(c.in, b[:]); err != nil {
			return err
		}
		c.Size, c.Flags = int64(binary.BigEndian.Uint64(b[:])), binary.BigEndian.Uint16(b[8:])
	}
	return nil
}

// Option appends an option of the negotiation to b.
func Option(b []byte, opt uint32, data []byte) []byte {
	b = append(b, "IHAVEOPT"...)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// ReadOptionReply reads one reply to an option.
func ReadOptionReply(r io.Reader) (opt, typ uint32, data []byte, err error) {
	var h [20]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, 0, nil, err
	}
	if m := binary.BigEndian.Uint64(h[:]); m != 0x3e889045565a9 {
		return 0, 0, nil, fmt.Errorf("nbdtest: option reply magic %#x", m)
	}
	n := binary.BigEndian.Uint32(h[16:])
	if n > 1<<20 {
		return 0, 0, nil, fmt.Errorf("nbdtest: option reply of %d bytes", n)
	}
	data = make([]byte, n)
	_, err = io.ReadFull(r, data)
	return binary.BigEndian.Uint32(h[8:]), binary.BigEndian.Uint32(h[12:]), data, err
}

// Request appends a request header to b.
func Request(b []byte, cmd, flags uint16, handle, off uint64, n uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, 0x25609513)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, cmd)
	b = binary.BigEndian.AppendUint64(b, handle)
	b = binary.BigEndian.AppendUint64(b, off)
	return binary.BigEndian.AppendUint32(b, n)
}

// Go sends a request and returns where its reply will be. For a write, data
// follows the header; for everything else it is nil.
func (c *Client) Go(cmd, flags uint16, off uint64, n uint32, data []byte) <-chan Reply {
	p := &pending{off: int64(off), ch: make(chan Reply, 1)}
	p.reply.ErrOffset = -1
	if cmd == Read && n <= 32<<20 {
		p.reply.Data = make([]byte, n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		p.reply.Err = c.err
		p.ch <- p.reply
		return p.ch
	}
	c.handle++
	c.calls[c.handle] = p
	// A failed write shows at the reader too, which then answers all.
	if _, err := c.Conn.Write(append(Request(nil, cmd, flags, c.handle, off, n), data...)); err != nil {
		_ = c.Conn.Close()
	}
	return p.ch
}

// Do is Go that waits.
func (c *Client) Do(cmd, flags uint16, off uint64, n uint32, data []byte) Reply {
	return <-c.Go(cmd, flags, off, n, data)
}

// Close says NBD_CMD_DISC, waits for the server to close and returns what was
// wrong with that.
func (c *Client) Close() error {
	c.mu.Lock()
	_, err := c.Conn.Write(Request(nil, Disconnect, 0, 0, 0, 0))
	c.mu.Unlock()
	<-c.over
	if err == nil && !errors.Is(c.err, io.EOF) {
		err = c.err
	}
	return errors.Join(err, c.Conn.Close())
}

// Abandon closes the socket without a word.
func (c *Client) Abandon() error {
	err := c.Conn.Close()
	<-c.over
	return err
}

// read takes replies until the connection ends.
func (c *Client) read() {
	defer close(c.over)
	var err error
	for err == nil {
		err = c.readReply()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	for _, p := range c.calls {
		p.reply.Err = err
		p.ch <- p.reply
	}
	c.calls = nil
}

func (c *Client) readReply() error {
	var b [16]byte
	if _, err := io.ReadFull(c.in, b[:]); err != nil {
		return err
	}
	handle := binary.BigEndian.Uint64(b[8:])
	c.mu.Lock()
	p := c.calls[handle]
	c.mu.Unlock()
	if p == nil {
		return fmt.Errorf("nbdtest: reply to %#x, which was not asked", handle)
	}
	last := true
	switch magic := binary.BigEndian.Uint32(b[:]); magic {
	case 0x67446698:
		p.reply.Errno = binary.BigEndian.Uint32(b[4:])
		if c.structured && p.reply.Data != nil {
			return errors.New("nbdtest: simple reply to a read with structured replies negotiated")
		}
		if p.reply.Errno == 0 {
			if _, err := io.ReadFull(c.in, p.reply.Data); err != nil {
				return err
			}
			p.got = len(p.reply.Data)
		}
	case 0x668e33ef:
		last = b[5]&1 != 0
		if err := c.readChunk(p, binary.BigEndian.Uint16(b[6:])); err != nil {
			return err
		}
	default:
		return fmt.Errorf("nbdtest: reply magic %#x", magic)
	}
	if !last {
		return nil
	}
	if p.reply.Errno == 0 && p.got != len(p.reply.Data) {
		return fmt.Errorf("nbdtest: %d bytes of a read of %d", p.got, len(p.reply.Data))
	}
	c.mu.Lock()
	delete(c.calls, handle)
	c.mu.Unlock()
	p.ch <- p.reply
	return nil
}

// readChunk reads the rest of a structured reply's chunk.
func (c *Client) readChunk(p *pending, typ uint16) error {
	var b [14]byte
	if _, err := io.ReadFull(c.in, b[:4]); err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint32(b[:]))
	if n > 32<<20+8 {
		return fmt.Errorf("nbdtest: chunk of %d bytes", n)
	}
	switch typ {
	case 0: // none
		if n != 0 {
			return fmt.Errorf("nbdtest: empty chunk of %d bytes", n)
		}
	case 1, 2: // data, hole
		if _, err := io.ReadFull(c.in, b[:8]); err != nil {
			return err
		}
		off := int64(binary.BigEndian.Uint64(b[:])) - p.off
		size := n - 8
		if typ == 2 {
			if _, err := io.ReadFull(c.in, b[:4]); err != nil || n != 12 {
				return fmt.Errorf("nbdtest: hole chunk of %d bytes: %w", n, err)
			}
			size = int64(binary.BigEndian.Uint32(b[:]))
			p.reply.Holes++
		}
		if off < 0 || size < 1 || off+size > int64(len(p.reply.Data)) {
			return fmt.Errorf("nbdtest: content chunk at %+d of %d bytes in a read of %d", off, size, len(p.reply.Data))
		}
		p.reply.Chunks++
		p.got += int(size)
		if typ == 2 {
			clear(p.reply.Data[off : off+size])
			return nil
		}
		_, err := io.ReadFull(c.in, p.reply.Data[off:off+size])
		return err
	case 5: // block status
		data := make([]byte, n)
		if _, err := io.ReadFull(c.in, data); err != nil {
			return err
		}
		if n < 12 || n%8 != 4 {
			return fmt.Errorf("nbdtest: block status of %d bytes", n)
		}
		for data = data[4:]; len(data) > 0; data = data[8:] {
			p.reply.Extents = append(p.reply.Extents, Extent{binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[4:])})
		}
	case 0x8001, 0x8002: // error, without and with offset
		data := make([]byte, n)
		if _, err := io.ReadFull(c.in, data); err != nil {
			return err
		}
		fixed := 6 + 8*int(typ&2)/2
		if len(data) < fixed || len(data) != fixed+int(binary.BigEndian.Uint16(data[4:])) {
			return fmt.Errorf("nbdtest: error chunk of %d bytes", n)
		}
		p.reply.Errno = binary.BigEndian.Uint32(data)
		m := int(binary.BigEndian.Uint16(data[4:]))
		p.reply.Message = string(data[6 : 6+m])
		if typ == 0x8002 {
			p.reply.ErrOffset = int64(binary.BigEndian.Uint64(data[6+m:]))
		}
	default:
		return fmt.Errorf("nbdtest: chunk of type %#x", typ)
	}
	return nil
}
