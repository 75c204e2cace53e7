package server

import (
	"context"
	"fmt"
	"sync"

	"dmps/raid"
)

// rebuildPages is the number of page buffers for rebuilds: all that a server
// pulls at a time lies in them. A batch takes 32 rows * K + 1 + M: 517 of the
// widest geometry, so that one fits with room for a second of K = 15, and 131
// of RS 4+2, of which seven fit. With their headers they are 4.3 MiB, beside
// what is lent.
const rebuildPages = 1024

// rebuildPool is the memory of all rebuilds of a server: pages, then headers,
// outside the Go heap and registered with the dialer.
type rebuildPool struct {
	arena *arena

	mu struct {
		sync.Mutex
		free    []uint16
		waiting []*poolWait // first come, first served, so that wide batches are not starved
	}
}

type poolWait struct {
	dst  []uint16
	done chan struct{} // closed when dst is filled
}

func newRebuildPool() (*rebuildPool, error) {
	// Locked if that is allowed. If not, a rebuild may be slow when this
	// machine swaps, and nothing else.
	a, err := newArena(rebuildPages*(raid.PageSize+raid.MaxHeaderSize), true)
	if err != nil {
		return nil, fmt.Errorf("buffers for rebuilds: %w", err)
	}
	p := &rebuildPool{arena: a}
	for i := range uint16(rebuildPages) {
		p.mu.free = append(p.mu.free, rebuildPages-1-i)
	}
	return p, nil
}

func (p *rebuildPool) page(i uint16) []byte {
	o := int(i) * raid.PageSize
	return p.arena.mem[o : o+raid.PageSize : o+raid.PageSize]
}

// header is the header of size bytes beside page i.
func (p *rebuildPool) header(i uint16, size int) []byte {
	o := rebuildPages*raid.PageSize + int(i)*raid.MaxHeaderSize
	return p.arena.mem[o : o+size : o+size]
}

// take fills dst with buffers, all at once, so that two that wait do not hold
// what the other needs. dst must be shorter than rebuildPages.
func (p *rebuildPool) take(ctx context.Context, dst []uint16) error {
	w := &poolWait{dst: dst, done: make(chan struct{})}
	p.mu.Lock()
	p.mu.waiting = append(p.mu.waiting, w)
	p.serveLocked()
	p.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, o := range p.mu.waiting {
		if o == w {
			p.mu.waiting = append(p.mu.waiting[:i], p.mu.waiting[i+1:]...)
			p.serveLocked()
			return ctx.Err()
		}
	}
	p.mu.free = append(p.mu.free, dst...) // served meanwhile
	p.serveLocked()
	return ctx.Err()
}

func (p *rebuildPool) give(ids []uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.free = append(p.mu.free, ids...)
	p.serveLocked()
}

func (p *rebuildPool) serveLocked() {
	for len(p.mu.waiting) > 0 {
		w := p.mu.waiting[0]
		k := len(p.mu.free) - len(w.dst)
		if k < 0 {
			return
		}
		copy(w.dst, p.mu.free[k:])
		p.mu.free = p.mu.free[:k]
		p.mu.waiting = p.mu.waiting[1:]
		close(w.done)
	}
}

func (p *rebuildPool) close() error { return p.arena.close() }
