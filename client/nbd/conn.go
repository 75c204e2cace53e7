package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"dmps/client"
	"dmps/transport/stream"
)

// conn is one connection in its transmission phase.
type conn struct {
	ctx    context.Context // ends with the server's Close
	nc     net.Conn
	rules  rules
	dev    client.Device
	closed *atomic.Bool // the server's: answer ESHUTDOWN from now on

	r     *stream.Reader
	w     *stream.Writer
	share share

	// Owned by the reader.
	submitted bool // something was submitted since the last Kick
	vec       [][]byte
	extents   []client.Extent

	dirty   atomic.Bool   // replies were appended since the last Flush
	kick    atomic.Bool   // complete submitted something that nobody has kicked
	payload atomic.Uint64 // odd while the payload of a write is being read
	handled atomic.Uint64 // bytes of requests that are begun or over, as of the last one
	stale   atomic.Uint64 // bytes that came longer ago than Config.Patience: what they ask to change is refused
	over    atomic.Bool   // fail was called: nothing more is carried out
	failed  sync.Once
}

// socketBuffer is the send buffer that a connection asks for, in bytes: a few
// replies of 128 KiB, so that a reply leaves in one call and wakes its reader
// once. The kernel's default takes one and a half; with megabytes the pages
// are out of the cache before they are read.
const socketBuffer = 512 << 10

// newConn prepares the transmission phase of a negotiated connection.
func newConn(ctx context.Context, nc net.Conn, s *session, cfg *Config, closed *atomic.Bool) (*conn, error) {
	if b, ok := nc.(interface{ SetWriteBuffer(int) error }); ok {
		// A failure leaves a slower connection, not a wrong one.
		_ = b.SetWriteBuffer(socketBuffer)
	}
	r, err := stream.NewReader(nc, stream.DefaultStage)
	if err != nil {
		return nil, err
	}
	w, err := stream.NewWriter(nc)
	if err != nil {
		return nil, err
	}
	c := &conn{ctx: ctx, nc: nc, rules: s.rules, dev: s.export.Device, closed: closed, r: r, w: w}
	c.share.depth, c.share.window = cfg.Depth, cfg.Window
	c.share.wake = make(chan struct{}, 1)
	return c, nil
}

// serve carries requests until the client disconnects, which is nil, or the
// connection breaks. It returns when every call is over and every reply was
// taken by the socket, or cannot be any more.
func (c *conn) serve() error {
	remove := c.dev.OnIdle(c.idle)
	err := c.requests()
	if c.closed.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil // what came before the server's Shutdown has been read
	}
	c.start()
	c.share.drain()
	remove()
	if werr := c.w.Err(); err == nil && werr != nil {
		err = fmt.Errorf("send replies: %w", werr)
	}
	c.linger(err != nil || c.closed.Load())
	c.w.Close()
	return err
}

// lingerTime is how long a client that may still be sending is listened to
// after the last reply. A TCP socket that is closed with input unread resets
// the connection, and takes replies that the client has not read with it.
const lingerTime = 100 * time.Millisecond

func (c *conn) linger(sending bool) {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !sending || !ok || half.CloseWrite() != nil {
		return
	}
	if c.nc.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_ = c.r.Discard(math.MaxInt) // ends with the connection or the deadline
	}
}

// errOver is how the reader ends when somebody else has ended the connection.
var errOver = errors.New("the connection was given up")

// fail ends the connection. Calls in flight still complete; what has been read and
// is not in flight yet is not carried out.
func (c *conn) fail() {
	c.over.Store(true)
	c.failed.Do(func() { _ = c.nc.Close() }) // the connection is given up either way
}

// requests is the reader: stages 1 to 3 of doc.go.
func (c *conn) requests() error {
	for {
		if c.r.Buffered() < requestHeaderLen {
			c.start()
		}
		b, err := c.r.Next(requestHeaderLen)
		if err != nil {
			if err == io.EOF {
				return nil // gone without a word, between requests: as good as NBD_CMD_DISC
			}
			return fmt.Errorf("read request: %w", err)
		}
		h, err := parseRequest(b)
		if err != nil {
			return err
		}
		if h.Type == cmdDisc {
			return nil
		}
		if err := c.perform(&h); err != nil {
			return err
		}
		c.handled.Store(c.r.Consumed())
	}
}

// start lets the device begin, and sends the replies that are there: called
// before anything that may wait.
func (c *conn) start() {
	if c.submitted {
		c.submitted = false
		c.dev.Kick()
	}
	c.idle()
}

// idle is registered with Device.OnIdle.
func (c *conn) idle() {
	if c.kick.Load() && c.kick.Swap(false) {
		c.dev.Kick()
	}
	if c.dirty.Load() && c.dirty.Swap(false) {
		c.w.Flush()
	}
}
