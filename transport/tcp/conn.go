package tcp

import (
	"net"
	"sync"
	"time"

	"dmps/transport"
	"dmps/transport/stream"
)

// started is the zero of Request.Wire.Start.
var started = time.Now()

// conn is the client's end of a session. Its goroutine reads replies and calls
// Done; requests are sent by whoever calls Kick.
type conn struct {
	nc      net.Conn
	r       *stream.Reader
	w       *stream.Writer
	regions *transport.Regions
	window  int
	idle    func()
	gone    func(*conn)
	done    chan struct{}
	places  [callKinds]chan struct{} // for calls, by kind

	mu struct {
		sync.Mutex
		cause error  // why the session ends; set once
		slots []slot // by the low half of an id
		free  []uint16
		calls [callKinds][]uint16 // free places, by kind
		runs  []transport.Run
		alarm transport.Alarm
	}

	// Of the reading goroutine.
	bufs  [][]byte
	fresh bool // Done was called since the last idle
}

// slot is a credit and the request that uses it.
type slot struct {
	req  *transport.Request
	call *call
	gen  uint16 // high half of the id: a second reply to one request does not pass
	hdr  uint16 // header bytes
	mask uint32
	end  uint64 // of its frame in the stream
}

func newConn(nc net.Conn, regions *transport.Regions, w transport.Welcome, idle func()) (*conn, error) {
	c := &conn{
		nc: nc, regions: regions, window: w.Window, idle: idle,
		done: make(chan struct{}),
		bufs: make([][]byte, 0, transport.MaxSegs),
	}
	c.mu.slots = make([]slot, w.Window+opens+extends+transport.RebuildsInFlight)
	c.mu.runs = make([]transport.Run, 0, transport.MaxSegs)
	for i := range c.mu.slots {
		switch {
		case i < w.Window:
			c.mu.free = append(c.mu.free, uint16(i))
		case i < w.Window+opens:
			c.mu.calls[callOpen] = append(c.mu.calls[callOpen], uint16(i))
		case i < w.Window+opens+extends:
			c.mu.calls[callExtend] = append(c.mu.calls[callExtend], uint16(i))
		default:
			c.mu.calls[callRebuild] = append(c.mu.calls[callRebuild], uint16(i))
		}
	}
	for k := range c.places {
		c.places[k] = make(chan struct{}, len(c.mu.calls[k]))
	}
	c.mu.alarm.Init(c.expire)
	var err error
	if c.r, err = stream.NewReader(nc, stream.DefaultStage); err != nil {
		return nil, err
	}
	if c.w, err = stream.NewWriter(nc); err != nil {
		return nil, err
	}
	return c, nil
}

var ops = [...]uint8{
	transport.OpRead:        typeRead,
	transport.OpWrite:       typeWrite,
	transport.OpReadHeaders: typeReadHeaders,
}

// Carrier implements transport.Carrier.
func (c *conn) Carrier() string { return "tcp" }

// Submit implements transport.Conn.
func (c *conn) Submit(r *transport.Request) error {
	hdr, mask := c.regions.Check(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.cause != nil {
		return transport.ErrClosed
	}
	k := len(c.mu.free) - 1
	if k < 0 {
		return transport.ErrWindowFull
	}
	if err := c.w.Begin(); err != nil {
		return transport.ErrClosed // the reading goroutine finds out why
	}
	i := c.mu.free[k]
	c.mu.free = c.mu.free[:k]
	s := &c.mu.slots[i]
	s.gen++
	q := request{
		typ: ops[r.Op], headerBytes: uint16(hdr), id: uint32(s.gen)<<16 | uint32(i),
		chunk: r.Chunk, segs: uint32(len(r.Segs)), mask: mask,
	}
	if r.Op == transport.OpReadHeaders {
		q.segs = uint32(r.Count)
		c.mu.runs = append(c.mu.runs[:0], transport.Run{Start: r.Segs[0].Index, Count: uint32(r.Count)})
	} else {
		c.mu.runs = transport.AppendRuns(c.mu.runs[:0], r.Segs)
	}
	q.runs = uint8(len(c.mu.runs))
	b := c.w.Bytes(requestHead + len(c.mu.runs)*runSize)
	q.put(b)
	putRuns(b[requestHead:], c.mu.runs)
	if r.Op == transport.OpWrite {
		b = c.w.Bytes(hdr * len(r.Segs))
		for j := range r.Segs {
			copy(b[j*hdr:], r.Segs[j].Header)
		}
		for j := range r.Segs {
			c.w.Ref(r.Segs[j].Page)
		}
	}
	r.Err, r.Wire.ID, r.Wire.Start = nil, q.id, int64(time.Since(started))
	s.req, s.hdr, s.mask = r, uint16(hdr), mask
	s.end = c.w.End(nil)
	c.mu.alarm.Set(r.Deadline)
	return nil
}

// Kick implements transport.Conn.
func (c *conn) Kick() { c.w.Flush() }

// Window implements transport.Conn.
func (c *conn) Window() int { return c.window }

// Done implements transport.Conn.
func (c *conn) Done() <-chan struct{} { return c.done }

// Err implements transport.Conn.
func (c *conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.cause
}

// Abort implements transport.Conn.
func (c *conn) Abort(cause error) {
	c.mu.Lock()
	if c.mu.cause == nil {
		c.mu.cause = transport.Ended(cause)
	}
	c.mu.Unlock()
	// The reading goroutine comes back and ends the session. Closing nc here
	// would wait for it.
	_ = c.nc.SetDeadline(time.Unix(1, 0)) // fails only when it did so already
}

// Close implements transport.Conn.
func (c *conn) Close() error {
	c.Abort(transport.ErrClosed)
	<-c.done
	return nil
}
