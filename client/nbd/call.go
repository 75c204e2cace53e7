package nbd

import (
	"sync"

	"dmps/client"
)

// call is one request from its header to the last byte of its reply. Calls are
// pooled: their Op, and the slices in it, are used again.
type call struct {
	c    *conn
	op   client.Op
	held int64 // bytes of the connection's window, set by share.take
	bufs bool  // op.Bufs is ours to free when the reply was taken

	cmd    uint16 // command
	flags  uint16 // command flags
	handle uint64
	off    int64 // of the request, bytes
	end    int64 // off + length

	next *call // in share.free
}

// changes reports whether the call changes what is stored. What only asks does no
// harm when it is late.
func (k *call) changes() bool {
	return k.op.Kind == client.OpWrite || k.op.Kind == client.OpTrim || k.op.Kind == client.OpZero
}

// done is Op.Done of every call.
func done(op *client.Op) {
	k := op.User.(*call)
	k.c.complete(k)
}

// Released is called by the stream.Writer when the reply's bytes were taken by
// the socket, or never will be.
func (k *call) Released() {
	if k.bufs {
		k.bufs = false
		k.c.dev.Free(k.op.Bufs)
	}
	k.op.Bufs = k.op.Bufs[:0]
	k.c.share.give(k)
}

// share is what one connection may have in flight. A call counts until its
// reply was taken, so that a peer that does not read is not read from.
type share struct {
	depth  int           // most calls
	window int64         // most bytes of page buffers; one call is always let in
	wake   chan struct{} // capacity 1: tells the reader, the only one that waits

	mu struct {
		sync.Mutex
		free    *call // pool
		calls   int   // taken and not given back. calls <= depth
		held    int64 // bytes of those calls
		waiting bool  // the reader waits, for less in flight
	}
}

// take admits a call that needs n bytes of buffers, pooled or new. It returns
// nil when the share is used up: wait for wake then, and take again.
func (s *share) take(c *conn, n int64) *call {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.calls > 0 && (s.mu.calls >= s.depth || s.mu.held+n > s.window) {
		s.mu.waiting = true
		return nil
	}
	s.mu.calls++
	s.mu.held += n
	k := s.mu.free
	if k != nil {
		s.mu.free, k.next = k.next, nil
	} else {
		k = &call{c: c}
		k.op.User, k.op.Done = k, done
	}
	k.held = n
	return k
}

// give takes a call back.
func (s *share) give(k *call) {
	s.mu.Lock()
	s.mu.calls--
	s.mu.held -= k.held
	k.next, s.mu.free = s.mu.free, k
	wake := s.mu.waiting
	s.mu.waiting = false
	s.mu.Unlock()
	if wake {
		s.wake <- struct{}{} // never blocks: waiting was set once
	}
}

// drain waits until no call is in flight. Only the reader may, as with take.
func (s *share) drain() {
	for {
		s.mu.Lock()
		if s.mu.calls == 0 {
			s.mu.Unlock()
			return
		}
		s.mu.waiting = true
		s.mu.Unlock()
		<-s.wake
	}
}
