package ublk

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"unsafe"

	"dmps/client"
)

// disk is what a volume keeps when its client is gone.
type disk struct {
	mu     sync.Mutex
	data   []byte
	mapped []bool // by page
}

func newDisk(pages int) *disk {
	return &disk{data: make([]byte, pages*pageSize), mapped: make([]bool, pages)}
}

// memDev is a client.Device in memory that holds its front end to the contract:
// a bounded arena, completions late, out of order and on other goroutines,
// nothing before Kick, poison in what was freed, all buffers back at the end.
type memDev struct {
	*disk
	inline bool // Kick completes everything itself

	cond      sync.Cond
	arena     []*client.Buf
	mem       []byte
	held      []bool
	submitted []*client.Op
	ready     []*client.Op
	running   int
	paused    bool
	closed    bool
	fault     func(*client.Op) error
	workers   sync.WaitGroup
}

var zeroPage = &client.Buf{Page: make([]byte, pageSize)}

func newMemDev(t testing.TB, d *disk, arena int, inline bool) *memDev {
	m := &memDev{disk: d, inline: inline, mem: make([]byte, arena*pageSize), held: make([]bool, arena)}
	m.cond.L = &d.mu
	for i := range arena {
		m.arena = append(m.arena, &client.Buf{Page: m.mem[i*pageSize:][:pageSize:pageSize]})
	}
	if !inline {
		for i := range 2 {
			m.workers.Go(func() { m.work(rand.New(rand.NewPCG(uint64(i), 7))) })
		}
	}
	t.Cleanup(func() { m.close(t) })
	return m
}

// close ends what is open with ErrClosed, as a Volume does, and looks for
// buffers that did not come back.
func (m *memDev) close(t testing.TB) {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return
	}
	m.closed = true
	m.cond.Broadcast()
	m.mu.Unlock()
	m.workers.Wait()
	m.mu.Lock()
	open := append(m.ready, m.submitted...)
	m.ready, m.submitted = nil, nil
	for _, op := range open {
		op.Err = client.ErrClosed
		if op.Kind == client.OpWrite {
			m.free(op.Bufs)
		}
	}
	m.mu.Unlock()
	for _, op := range open {
		op.Done(op)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range m.held {
		if h {
			t.Error("a page buffer was not given back")
			break
		}
	}
	for _, c := range zeroPage.Page {
		if c != 0 {
			t.Fatal("the constant page was written to")
		}
	}
}

func (m *memDev) Size() int64                   { return int64(len(m.data)) }
func (m *memDev) OnIdle(func()) (remove func()) { panic("not used: Done wakes") }

func (m *memDev) Extents(off, n int64, most int, dst []client.Extent) []client.Extent {
	panic("not used")
}

func (m *memDev) index(b *client.Buf) int {
	return int(uintptr(unsafe.Pointer(&b.Page[0]))-uintptr(unsafe.Pointer(&m.mem[0]))) / pageSize
}

func (m *memDev) take(n int, dst []*client.Buf) []*client.Buf {
	k := len(m.arena) - n
	for _, b := range m.arena[k:] {
		m.held[m.index(b)] = true
		dst = append(dst, b)
	}
	m.arena = m.arena[:k]
	return dst
}

func (m *memDev) TryAlloc(n int, dst []*client.Buf) ([]*client.Buf, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.arena) < n || m.closed {
		return dst, false
	}
	return m.take(n, dst), true
}

func (m *memDev) Alloc(ctx context.Context, n int, dst []*client.Buf) ([]*client.Buf, error) {
	defer context.AfterFunc(ctx, func() {
		m.mu.Lock()
		m.cond.Broadcast()
		m.mu.Unlock()
	})()
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.arena) < n || m.closed || ctx.Err() != nil {
		if m.closed {
			return dst, client.ErrClosed
		}
		if ctx.Err() != nil {
			return dst, ctx.Err()
		}
		m.cond.Wait()
	}
	return m.take(n, dst), nil
}

func (m *memDev) Free(bufs []*client.Buf) {
	m.mu.Lock()
	m.free(bufs)
	m.mu.Unlock()
}

func (m *memDev) free(bufs []*client.Buf) {
	for _, b := range bufs {
		if b == zeroPage {
			continue
		}
		i := m.index(b)
		if !m.held[i] {
			panic("buffer freed twice")
		}
		m.held[i] = false
		if !m.inline {
			for j := range b.Page {
				b.Page[j] = 0xdb
			}
		}
		m.arena = append(m.arena, b)
	}
	m.cond.Broadcast()
}

func (m *memDev) Submit(op *client.Op) {
	if op.Off < 0 || op.Len < 0 || op.Off+op.Len > m.Size() {
		panic(fmt.Sprintf("op of %d bytes at %d", op.Len, op.Off))
	}
	if op.Kind == client.OpWrite && len(op.Bufs) != pagesOf(op) || op.Kind == client.OpRead && len(op.Bufs) != 0 {
		panic("wrong number of buffers")
	}
	m.mu.Lock()
	m.submitted = append(m.submitted, op)
	m.mu.Unlock()
}

func (m *memDev) Kick() {
	m.mu.Lock()
	m.ready = append(m.ready, m.submitted...)
	m.submitted = m.submitted[:0]
	for m.inline && len(m.ready) > 0 { // several threads may kick at once
		last := len(m.ready) - 1
		op := m.ready[last]
		m.ready = m.ready[:last]
		m.perform(op)
		m.mu.Unlock()
		op.Done(op)
		m.mu.Lock()
	}
	m.cond.Broadcast()
	m.mu.Unlock()
}

func (m *memDev) work(rnd *rand.Rand) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for !m.closed {
		i := m.pick(rnd)
		if i < 0 {
			m.cond.Wait()
			continue
		}
		op := m.ready[i]
		last := len(m.ready) - 1
		m.ready[i] = m.ready[last]
		m.ready = m.ready[:last]
		m.running++
		m.perform(op)
		m.mu.Unlock()
		op.Done(op)
		m.mu.Lock()
		m.running--
	}
}

// pick is any op that can be done now. A read waits for buffers.
func (m *memDev) pick(rnd *rand.Rand) int {
	if n := len(m.ready); n > 0 && !m.paused {
		for i, start := 0, rnd.IntN(n); i < n; i++ {
			op := m.ready[(start+i)%n]
			if op.Kind != client.OpRead || pagesOf(op) <= len(m.arena) {
				return (start + i) % n
			}
		}
	}
	return -1
}

func (m *memDev) perform(op *client.Op) {
	op.Err = nil
	if m.fault != nil {
		op.Err = m.fault(op)
	}
	first := op.Off / pageSize
	for i := range int64(pagesOf(op)) {
		at := op.Off + i*pageSize
		switch {
		case op.Kind == client.OpRead && op.Err == nil && m.mapped[first+i]:
			op.Bufs = m.take(1, op.Bufs)
			copy(op.Bufs[i].Page, m.data[at:])
		case op.Kind == client.OpRead && op.Err == nil:
			op.Bufs = append(op.Bufs, zeroPage)
		case op.Kind == client.OpWrite && op.Err == nil:
			copy(m.data[at:at+pageSize], op.Bufs[i].Page)
			m.mapped[first+i] = true
		case op.Kind != client.OpFlush && op.Err == nil:
			clear(m.data[at : at+pageSize])
			m.mapped[first+i] = false
		}
	}
	if op.Kind == client.OpWrite {
		m.free(op.Bufs)
	}
}

func (m *memDev) pause(on bool) {
	m.mu.Lock()
	m.paused = on
	m.cond.Broadcast()
	m.mu.Unlock()
}

func (m *memDev) setFault(f func(*client.Op) error) {
	m.mu.Lock()
	m.fault = f
	m.mu.Unlock()
}

// waitReady blocks until n ops were kicked and wait.
func (m *memDev) waitReady(n int) {
	m.mu.Lock()
	for len(m.ready) < n {
		m.cond.Wait()
	}
	m.mu.Unlock()
}
