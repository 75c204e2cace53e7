package client

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"dmps/raid"

	"golang.org/x/sys/unix"
)

// arena is the only memory that pages are in while they are in this process:
// one mapping outside the Go heap, populated and locked when the volume is
// opened, registered with the transport once. Nothing on the page path
// allocates; what is not here is waited for.
type arena struct {
	mem    []byte
	hdrs   []byte
	bufs   []Buf
	locked bool
	next   int // first buffer that no pool has
}

// Beside each page lies room for the largest header, at a stride that keeps
// headers apart in cache lines.
const headerStride = (raid.MaxHeaderSize + 63) &^ 63

func newArena(pages int, swappable bool) (*arena, error) {
	mem, err := unix.Mmap(-1, 0, pages*(raid.PageSize+headerStride), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("mapping %d page buffers: %w", pages, err)
	}
	a := &arena{mem: mem, bufs: make([]Buf, pages)}
	if err := unix.Mlock(mem); err == nil {
		a.locked = true
	} else if !swappable {
		unix.Munmap(mem)
		return nil, fmt.Errorf("locking %d MiB of page buffers: %w: raise the limit (ulimit -l unlimited, LimitMEMLOCK=infinity), or allow swappable memory if this machine will never swap to the volume", len(mem)>>20, err)
	}
	a.hdrs = mem[pages*raid.PageSize:]
	for i := range a.bufs {
		b := &a.bufs[i]
		b.Page = mem[i*raid.PageSize:][:raid.PageSize:raid.PageSize]
		b.hdr = a.hdrs[i*headerStride:][:headerStride:headerStride]
	}
	return a, nil
}

func (a *arena) close() error { return unix.Munmap(a.mem) }

// pool takes the next n buffers as a pool of their own, so that no part of
// the client can starve another one.
func (a *arena) pool(n int) *pool {
	p := &pool{free: make([]*Buf, 0, n), size: n}
	for i := range n {
		b := &a.bufs[a.next+i]
		b.home = p
		p.free = append(p.free, b)
	}
	a.next += n
	return p
}

// pool hands out buffers, first come first served.
type pool struct {
	size int
	mu   sync.Mutex
	// free is used as a stack: the page used last is still in the cache.
	free []*Buf
	// head and tail are the queue of those who wait.
	head, tail *waiter
	closed     bool
}

// waiter waits for n buffers: a goroutine by wake, or an Op by granted.
type waiter struct {
	n       int
	bufs    []*Buf
	wake    chan struct{}
	granted func(w *waiter)
	op      *Op
	next    *waiter
}

// tryGet appends n buffers to dst, or nothing.
func (p *pool) tryGet(n int, dst []*Buf) ([]*Buf, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.head != nil || len(p.free) < n || p.closed {
		return dst, false
	}
	return p.take(n, dst), true
}

func (p *pool) take(n int, dst []*Buf) []*Buf {
	k := len(p.free) - n
	for _, b := range p.free[k:] {
		if !b.held.CompareAndSwap(false, true) {
			panic("client: buffer handed out twice")
		}
		dst = append(dst, b)
	}
	p.free = p.free[:k]
	return dst
}

var errTooMany = errors.New("more page buffers than the arena has: raise --arena")

// get appends n buffers to dst and waits until it can.
func (p *pool) get(ctx context.Context, n int, dst []*Buf) ([]*Buf, error) {
	if n > p.size {
		return dst, fmt.Errorf("%d pages of %d: %w", n, p.size, errTooMany)
	}
	if dst, ok := p.tryGet(n, dst); ok {
		return dst, nil
	}
	w := &waiter{n: n, bufs: dst, wake: make(chan struct{})}
	if err := p.wait(w); err != nil {
		return dst, err
	}
	select {
	case <-w.wake:
	case <-ctx.Done():
		if p.leave(w) {
			return dst, ctx.Err()
		}
		<-w.wake           // it was granted meanwhile
		if w.bufs != nil { // nil: the pool was closed
			p.put(w.bufs[len(dst):])
		}
		return dst, ctx.Err()
	}
	if w.bufs == nil {
		return dst, ErrClosed
	}
	return w.bufs, nil
}

// wait queues w, which may be served before wait returns.
func (p *pool) wait(w *waiter) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return ErrClosed
	}
	if p.tail == nil {
		p.head = w
	} else {
		p.tail.next = w
	}
	p.tail = w
	served := p.serve()
	p.mu.Unlock()
	serveAll(served)
	return nil
}

// leave takes w out of the queue, or reports false when it was served.
func (p *pool) leave(w *waiter) bool {
	p.mu.Lock()
	var served *waiter
	found := false
	for at, prev := p.head, (*waiter)(nil); at != nil; prev, at = at, at.next {
		if at != w {
			continue
		}
		if prev == nil {
			p.head = w.next
		} else {
			prev.next = w.next
		}
		if p.tail == w {
			p.tail = prev
		}
		found = true
		served = p.serve() // w may have stood in the way of smaller ones
		break
	}
	p.mu.Unlock()
	serveAll(served)
	return found
}

// serve takes those who can be served off the queue, as a list.
func (p *pool) serve() (served *waiter) {
	var last *waiter
	for p.head != nil && len(p.free) >= p.head.n {
		w := p.head
		p.head = w.next
		if p.head == nil {
			p.tail = nil
		}
		w.next = nil
		w.bufs = p.take(w.n, w.bufs)
		if last == nil {
			served = w
		} else {
			last.next = w
		}
		last = w
	}
	return served
}

func serveAll(w *waiter) {
	for w != nil {
		next := w.next
		w.next = nil
		if w.wake != nil {
			close(w.wake)
		} else {
			w.granted(w)
		}
		w = next
	}
}

// put gives buffers back; all of them are this pool's. Whoever waits for them
// is served on the caller's goroutine, so call it without a lock.
func (p *pool) put(bufs []*Buf) {
	p.mu.Lock()
	for _, b := range bufs {
		if !b.held.CompareAndSwap(true, false) {
			panic("client: buffer released twice")
		}
		p.free = append(p.free, b)
	}
	var served *waiter
	if p.head != nil && !p.closed {
		served = p.serve()
	}
	p.mu.Unlock()
	serveAll(served)
}

// available is how many buffers are free now.
func (p *pool) available() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.free)
}

// close wakes everybody who waits, with nothing.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	w := p.head
	p.head, p.tail = nil, nil
	p.mu.Unlock()
	for at := w; at != nil; at = at.next {
		at.bufs = nil
	}
	serveAll(w)
}

// freeBufs gives each buffer back to its own pool.
func freeBufs(bufs []*Buf) {
	for i := 0; i < len(bufs); {
		home := bufs[i].home
		j := i + 1
		for j < len(bufs) && bufs[j].home == home {
			j++
		}
		if home != nil { // constant pages have none
			home.put(bufs[i:j])
		}
		i = j
	}
}

// constants are 256 pages of one byte value each: what same-filled pages are
// answered with. Nobody counts who reads them, so all volumes of the process share
// them, and they are never written to after this and never unmapped.
type constants struct {
	mem  []byte
	bufs [256]Buf
}

var makeConstants = sync.OnceValues(func() (*constants, error) {
	c := &constants{}
	mem, err := unix.Mmap(-1, 0, len(c.bufs)*raid.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("mapping the constant pages: %w", err)
	}
	c.mem = mem
	for v := range c.bufs {
		b := &c.bufs[v]
		b.Page = mem[v*raid.PageSize:][:raid.PageSize:raid.PageSize]
		fillPage(b.Page, byte(v))
	}
	return c, nil
})

// theConstants makes the constants at the first call. Whether they must be locked
// is for each volume to say.
func theConstants(swappable bool) (*constants, error) {
	c, err := makeConstants()
	if err != nil {
		return nil, err
	}
	if err := unix.Mlock(c.mem); err != nil && !swappable {
		return nil, fmt.Errorf("locking the constant pages: %w", err)
	}
	return c, nil
}
