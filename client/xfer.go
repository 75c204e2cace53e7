package client

import (
	"sync"

	"dmps/raid"
	"dmps/transport"
)

// xfer is one transfer with one member: a transport.Request and what it is
// part of.
type xfer struct {
	req  transport.Request
	segs [raid.MaxBatchPages]transport.Seg

	peer   *peer
	conn   transport.Conn // that accepted it
	col    raid.Col
	second bool // of a batch: to the pending member of col

	// What it is part of, or who it is for: exactly one of these.
	batch  *batch
	run    *run
	rescue *rescue
	wait   chan error // somebody who waits for it (recovery)

	start      int64 // when it was handed to the peer, nanoseconds
	prev, next *xfer // in the peer's list of transfers in flight, or (next only) waiting or free
}

// xferPool keeps transfers for reuse. It grows to the most that were ever in
// flight, which the arena bounds.
type xferPool struct {
	mu   sync.Mutex
	free *xfer
	done func(*transport.Request)
}

func (p *xferPool) get() *xfer {
	p.mu.Lock()
	x := p.free
	if x != nil {
		p.free = x.next
		x.next = nil
	}
	p.mu.Unlock()
	if x == nil {
		x = p.make()
	}
	x.req.Segs = x.segs[:0]
	x.req.Err = nil
	return x
}

func (p *xferPool) make() *xfer {
	x := &xfer{}
	x.req.User = x
	x.req.Done = p.done
	return x
}

func (p *xferPool) put(x *xfer) {
	clear(x.segs[:len(x.req.Segs)]) // no stale reference to a buffer
	x.batch, x.run, x.rescue, x.wait, x.peer, x.conn = nil, nil, nil, nil, nil, nil
	x.second = false
	p.mu.Lock()
	x.next = p.free
	p.free = x
	p.mu.Unlock()
}

// add appends a segment.
func (x *xfer) add(i raid.Index, header, page []byte) {
	x.req.Segs = append(x.req.Segs, transport.Seg{Index: uint32(i), Header: header, Page: page})
}
