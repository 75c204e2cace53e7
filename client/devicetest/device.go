package devicetest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"dmps/client"
)

// Device is a client.Device whose content is a Disk.
type Device struct {
	*Disk
	inline bool

	// Guarded by Disk.mu; cond: anything of it changed.
	cond      sync.Cond
	arena     arena
	submitted []*client.Op
	ready     []*client.Op // kicked, and not done yet
	running   int
	idle      map[int]func()
	nextIdle  int
	paused    bool // nothing completes
	closed    bool
	fault     func(*client.Op) error // what an Op ends with

	workers sync.WaitGroup
}

// New is a device with an arena of that many pages. When the test ends it is
// closed, and fails the test if the front end kept anything: a buffer, an
// OnIdle, or an Op that was not completed.
//
// With inline, Kick completes everything itself: for benchmarks.
func New(tb testing.TB, d *Disk, arenaPages int, inline bool) *Device {
	m := Start(d, arenaPages, inline)
	tb.Cleanup(func() {
		if n := m.end(); n > 0 {
			tb.Errorf("%d ops were not completed", n)
		}
		m.verify(tb)
	})
	return m
}

// Start is New without a test, and without an end.
func Start(d *Disk, arenaPages int, inline bool) *Device {
	m := &Device{Disk: d, inline: inline, arena: newArena(arenaPages), idle: make(map[int]func())}
	m.cond.L = &d.mu
	if !inline {
		for i := range 2 {
			m.workers.Go(func() { m.work(rand.New(rand.NewPCG(uint64(i), 7))) })
		}
	}
	return m
}

// Close ends what is open with client.ErrClosed, as a Volume does, and verifies
// that the front end gave everything back.
func (m *Device) Close(tb testing.TB) {
	m.end()
	m.verify(tb)
}

// end is Close without looking, and gives the number of Ops that it ended.
func (m *Device) end() int {
	m.mu.Lock()
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
			m.freeLocked(op.Bufs)
		}
	}
	m.mu.Unlock()
	for _, op := range open {
		op.Done(op)
	}
	return len(open)
}

func (m *Device) verify(tb testing.TB) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, held := range m.arena.held {
		if held {
			tb.Error("a page buffer was not given back")
			break
		}
	}
	if len(m.idle) > 0 {
		tb.Error("OnIdle was not removed")
	}
	for _, c := range zeroPage.Page {
		if c != 0 {
			tb.Fatal("the constant page was written to")
		}
	}
}

// State is how a Device is at a moment.
type State struct {
	Waiting   int // Ops that were kicked and are not done yet
	Running   int // that are just being done
	FreePages int // buffers of the arena
	OnIdle    int // functions that front ends have registered
}

// State is the present one.
func (m *Device) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stateLocked()
}

func (m *Device) stateLocked() State {
	return State{len(m.ready), m.running, len(m.arena.free), len(m.idle)}
}

// WaitFor blocks until what holds.
func (m *Device) WaitFor(what func(State) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for !what(m.stateLocked()) {
		m.cond.Wait()
	}
}

// Pause holds all completions back, or lets them go.
func (m *Device) Pause(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.paused = on
	m.cond.Broadcast()
}

// SetFault makes Ops end with what f says from now on; nil: with what they did.
// f is called with the Device locked; one that waits does so in Unlocked.
func (m *Device) SetFault(f func(*client.Op) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

// Unlocked runs wait for a fault, as the contract has it for a worker that
// waits: what it has completed is flushed first.
func (m *Device) Unlocked(wait func()) {
	m.rest()
	m.mu.Unlock()
	defer m.mu.Lock()
	wait()
}

// OnIdle implements client.Device.
func (m *Device) OnIdle(f func()) (remove func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.nextIdle
	m.nextIdle++
	m.idle[id] = f
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.idle, id)
		m.cond.Broadcast()
	}
}

// Submit implements client.Device.
func (m *Device) Submit(op *client.Op) {
	if op.Off < 0 || op.Len < 0 || op.Off+op.Len > m.Size() {
		panic(fmt.Sprintf("op of %d bytes at %d", op.Len, op.Off))
	}
	if op.Kind == client.OpWrite && len(op.Bufs) != pagesOf(op) {
		panic("write with too few or too many buffers")
	}
	if op.Kind == client.OpRead && len(op.Bufs) != 0 {
		panic("read with buffers")
	}
	m.mu.Lock()
	m.submitted = append(m.submitted, op)
	m.mu.Unlock()
}

func pagesOf(op *client.Op) int {
	if op.Len == 0 {
		return 0
	}
	return int((op.Off+op.Len-1)/pageSize - op.Off/pageSize + 1)
}

// Kick implements client.Device.
func (m *Device) Kick() {
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

// work completes what was kicked, in any order.
func (m *Device) work(rnd *rand.Rand) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		i := m.pick(rnd)
		for !m.closed && i < 0 {
			m.cond.Wait()
			i = m.pick(rnd)
		}
		if m.closed {
			return
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
		if m.pick(rnd) < 0 || rnd.IntN(4) == 0 { // before it waits, and now and then
			m.rest()
		}
		m.running--
		m.cond.Broadcast()
	}
}

// rest lets the front ends flush what a worker has completed. It unlocks m
// meanwhile.
func (m *Device) rest() {
	var fs []func()
	for _, f := range m.idle {
		fs = append(fs, f)
	}
	m.mu.Unlock()
	for _, f := range fs {
		f()
	}
	m.mu.Lock()
}

// pick is the index of any op that can be done now, -1 without one. A read
// waits for buffers; writes, which give some back, pass it.
func (m *Device) pick(rnd *rand.Rand) int {
	n := len(m.ready)
	if n == 0 || m.paused {
		return -1
	}
	for i, start := 0, rnd.IntN(n); i < n; i++ {
		op := m.ready[(start+i)%n]
		if op.Kind != client.OpRead || pagesOf(op) <= len(m.arena.free) {
			return (start + i) % n
		}
	}
	return -1
}

// perform does op. Locked.
func (m *Device) perform(op *client.Op) {
	op.Err = nil
	if m.fault != nil {
		op.Err = m.fault(op)
	}
	first := op.Off / pageSize
	switch op.Kind {
	case client.OpRead:
		if op.Err != nil {
			return
		}
		for p := first; p*pageSize < op.Off+op.Len; p++ {
			if !m.mapped[p] {
				op.Bufs = append(op.Bufs, zeroPage)
				continue
			}
			op.Bufs = m.take(1, op.Bufs)
			copy(op.Bufs[p-first].Page, m.data[p*pageSize:])
		}
	case client.OpWrite:
		if op.Err == nil {
			for off := op.Off; off < op.Off+op.Len; {
				end := min(op.Off+op.Len, (off/pageSize+1)*pageSize)
				at := off % pageSize
				copy(m.data[off:end], op.Bufs[off/pageSize-first].Page[at:])
				m.mapped[off/pageSize] = true
				off = end
			}
		}
		m.freeLocked(op.Bufs)
	case client.OpTrim, client.OpZero:
		if op.Err != nil {
			return
		}
		if op.Len > 32<<20 {
			panic("longer than an op may be")
		}
		clear(m.data[op.Off : op.Off+op.Len])
		for p := (op.Off + pageSize - 1) / pageSize; (p+1)*pageSize <= op.Off+op.Len; p++ {
			m.mapped[p] = false
		}
	}
}

// Extents implements client.Device.
func (m *Device) Extents(off, n int64, most int, dst []client.Extent) []client.Extent {
	m.mu.Lock()
	defer m.mu.Unlock()
	from := len(dst)
	for end := off + n; off < end; {
		next := min(end, (off/pageSize+1)*pageSize)
		hole := !m.mapped[off/pageSize]
		if k := len(dst); k > from && dst[k-1].Hole == hole {
			dst[k-1].Len += next - off
		} else if k-from == most {
			break
		} else {
			dst = append(dst, client.Extent{Len: next - off, Hole: hole, Zero: hole})
		}
		off = next
	}
	return dst
}
