package nbd

import (
	"errors"
	"fmt"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"dmps/client"
)

// maxPiece bounds one Op that zeroes or trims, in bytes, as client.MaxOpPages
// bounds one that carries data. Longer requests are done piece by piece.
const maxPiece = 32 << 20

// errStale is why a request is not carried out that has lain here for too long.
var errStale = errors.New("the request has waited for too long behind others: its client may have sent it again elsewhere")

// perform judges one request and gets it going. Its error ends the connection.
// It runs on the reader.
func (c *conn) perform(h *protocol.TransmissionRequestHeader) error {
	errno := c.rules.check(h)
	if c.closed.Load() {
		errno = errShutdown
	}
	if errno != 0 {
		return c.reject(h, errno)
	}
	var held int64
	if h.Type == cmdRead || h.Type == cmdWrite || h.Type == cmdCache {
		held = pagesOf(int64(h.Offset), int64(h.Length)) * pageSize
	}
	k := c.admit(h, held)
	switch {
	case c.over.Load():
		k.Released()
		return errOver
	case h.Type == cmdBlockStatus:
		c.blockStatus(k)
		return nil
	case h.Length == 0 && h.Type != cmdFlush:
		c.answer(k, 0, nil) // nothing is done soon
		return nil
	}

	k.op.Off, k.op.Len = k.off, k.end-k.off
	k.op.FUA = h.CommandFlags&cmdFlagFUA != 0
	switch h.Type {
	case cmdRead:
		k.op.Kind = client.OpRead
	case cmdCache:
		// There is no cache to fill. Reading tells whether the range can be
		// had, where an empty success would only pretend.
		k.op.Kind = client.OpRead
	case cmdWrite:
		k.op.Kind = client.OpWrite
		if ok, err := c.receive(k); !ok {
			return err
		}
	case cmdTrim:
		k.op.Kind = client.OpTrim
		k.op.Len = piece(k.off, k.end)
	case cmdWriteZeroes:
		// A volume's rows are reserved when it is created, so that zeros that
		// are only an entry of the page map satisfy NBD_CMD_FLAG_NO_HOLE too.
		k.op.Kind = client.OpZero
		k.op.Len = piece(k.off, k.end)
	case cmdFlush:
		k.op.Kind = client.OpFlush
	}
	if c.over.Load() { // while it waited for its buffers or its payload
		k.bufs = k.op.Kind == client.OpWrite
		k.Released()
		return errOver
	}
	if k.changes() && c.r.Consumed() <= c.stale.Load() {
		k.bufs = k.op.Kind == client.OpWrite
		c.answer(k, errIO, errStale)
		return nil
	}
	c.submitted = true
	c.dev.Submit(&k.op)
	return nil
}

// piece is how much of [off, end) to zero or trim at once: up to a multiple of
// maxPiece, so that only the ends of a request can be parts of pages.
func piece(off, end int64) int64 {
	return min(end, (off/maxPiece+1)*maxPiece) - off
}

// pagesOf is the number of pages that n bytes at off touch.
func pagesOf(off, n int64) int64 {
	return (off%pageSize + n + pageSize - 1) / pageSize
}

// admit takes a call, waiting for the share when it is used up.
func (c *conn) admit(h *protocol.TransmissionRequestHeader, held int64) *call {
	k := c.share.take(c, held)
	for k == nil {
		c.start() // what we wait for may not have been started, or its reply not sent
		<-c.share.wake
		k = c.share.take(c, held)
	}
	k.cmd, k.flags, k.handle = h.Type, h.CommandFlags, h.Handle
	k.off = int64(h.Offset)
	k.end = k.off + int64(h.Length)
	return k
}

// reject answers a request that is not carried out, after its payload.
func (c *conn) reject(h *protocol.TransmissionRequestHeader, errno Errno) error {
	if h.Type == cmdWrite {
		if err := c.skip(int64(h.Length)); err != nil {
			return err
		}
	}
	// The offset may be out of bounds: it means nothing from here on.
	k := c.admit(&protocol.TransmissionRequestHeader{Type: h.Type, Handle: h.Handle}, 0)
	c.answer(k, errno, nil)
	return nil
}

// receive reads the payload of a write into page buffers of the arena. Without
// its true the call is over: it was refused for want of buffers, or the payload
// did not arrive, in which case none of it reaches the device, the buffers go
// back and the error ends the connection.
func (c *conn) receive(k *call) (bool, error) {
	n := int(pagesOf(k.off, k.op.Len))
	bufs, ok := c.dev.TryAlloc(n, k.op.Bufs[:0])
	if !ok {
		c.start() // what holds the buffers may wait for us
		var err error
		bufs, err = c.dev.Alloc(c.ctx, n, k.op.Bufs[:0])
		if err != nil {
			if serr := c.skip(k.op.Len); serr != nil {
				k.Released()
				return false, serr
			}
			c.answer(k, errnoOf(err), err)
			return false, nil
		}
	}
	k.op.Bufs = bufs
	k.bufs = true // until Submit they are ours

	c.vec = c.vec[:0]
	for at, left := k.off%pageSize, k.op.Len; left > 0; bufs, at = bufs[1:], 0 {
		m := min(left, pageSize-at)
		c.vec = append(c.vec, bufs[0].Page[at:at+m])
		left -= m
	}
	c.arrive(k.op.Len)
	err := c.r.ReadInto(c.vec)
	c.payload.Add(1)
	if err != nil {
		k.Released()
		return false, fmt.Errorf("read the payload of a write: %w", err)
	}
	k.bufs = false // the device frees them
	return true, nil
}

// skip reads the payload of a write and throws it away.
func (c *conn) skip(n int64) error {
	c.arrive(n)
	err := c.r.Discard(int(n))
	c.payload.Add(1)
	if err != nil {
		return fmt.Errorf("skip the payload of a refused write: %w", err)
	}
	return nil
}

// arrive stands before a payload of n bytes is read, and c.payload.Add(1)
// behind: in between the client is due to send, and the server watches that it
// does. What was submitted is started when not all of it is here: the client
// may wait for a reply before it sends the rest.
func (c *conn) arrive(n int64) {
	if int64(c.r.Buffered()) < n {
		c.start()
	}
	c.payload.Add(1)
}
