package nbd_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"unsafe"

	"dmps/client"
)

const pageSize = 4096

// memDev is a client.Device in memory that holds its front end to the
// contract: a bounded arena, completions on other goroutines, late and out of
// order, nothing before Kick, panics for a buffer freed twice, poison in what
// was freed, and a check at the end that everything came back.
type memDev struct {
	size int64
	// inline makes Kick complete everything itself, in order: for benchmarks.
	inline bool

	mu     sync.Mutex
	cond   sync.Cond // the arena, parked or ready changed
	data   []byte
	mapped []bool // by page: something is stored
	arena  []*client.Buf
	mem    []byte // the arena's pages
	held   []bool // by page of mem: handed out
	want   int    // pages that the front end waits for in Alloc

	submitted []*client.Op
	ready     []*client.Op
	running   int
	idle      map[int]func()
	nextIdle  int
	closed    bool
	workers   sync.WaitGroup
	kicks     int

	fault  func(*client.Op) error // what an Op ends with; under mu
	paused bool                   // nothing completes
}

// zeroPage is the constant page that holes read as.
var zeroPage = &client.Buf{Page: make([]byte, pageSize)}

var poison = bytes.Repeat([]byte{0xdb}, pageSize)

func newMemDev(tb testing.TB, size int64, arenaPages int, inline bool) *memDev {
	d := &memDev{
		size: size, inline: inline,
		data: make([]byte, size), mapped: make([]bool, size/pageSize),
		held: make([]bool, arenaPages), idle: make(map[int]func()),
	}
	d.cond.L = &d.mu
	d.mem = make([]byte, arenaPages*pageSize)
	for i := range arenaPages {
		d.arena = append(d.arena, &client.Buf{Page: d.mem[i*pageSize:][:pageSize:pageSize]})
	}
	if !inline {
		for i := range 2 {
			d.workers.Go(func() { d.work(rand.New(rand.NewPCG(uint64(i), 7))) })
		}
	}
	tb.Cleanup(func() { d.close(tb) })
	return d
}

// close ends the workers and reports what the front end kept.
func (d *memDev) close(tb testing.TB) {
	d.mu.Lock()
	d.closed = true
	d.cond.Broadcast()
	d.mu.Unlock()
	d.workers.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, held := range d.held {
		if held {
			tb.Error("a page buffer was not given back")
			break
		}
	}
	if n := len(d.submitted) + len(d.ready) + d.running; n > 0 {
		tb.Errorf("%d ops were not completed", n)
	}
	if len(d.idle) > 0 {
		tb.Error("OnIdle was not removed")
	}
	for _, c := range zeroPage.Page {
		if c != 0 {
			tb.Fatal("the constant page was written to")
		}
	}
}

func (d *memDev) Size() int64 { return d.size }

// isHeld is the mark of one buffer of the arena. It panics for any other.
func (d *memDev) isHeld(b *client.Buf) *bool {
	at := uintptr(unsafe.Pointer(&b.Page[0])) - uintptr(unsafe.Pointer(&d.mem[0]))
	return &d.held[at/pageSize]
}

func (d *memDev) take(n int, dst []*client.Buf) []*client.Buf {
	k := len(d.arena) - n
	for _, b := range d.arena[k:] {
		*d.isHeld(b) = true
		dst = append(dst, b)
	}
	d.arena = d.arena[:k]
	if !d.inline {
		d.cond.Broadcast()
	}
	return dst
}

func (d *memDev) TryAlloc(n int, dst []*client.Buf) ([]*client.Buf, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n < 1 || n > client.MaxOpPages {
		panic(fmt.Sprintf("alloc of %d pages", n))
	}
	if len(d.arena) < n || d.closed {
		return dst, false
	}
	return d.take(n, dst), true
}

func (d *memDev) Alloc(ctx context.Context, n int, dst []*client.Buf) ([]*client.Buf, error) {
	defer context.AfterFunc(ctx, func() {
		d.mu.Lock()
		d.cond.Broadcast()
		d.mu.Unlock()
	})()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.want += n
	defer func() { d.want -= n }()
	for len(d.arena) < n {
		if d.closed {
			return dst, client.ErrClosed
		}
		if ctx.Err() != nil {
			return dst, ctx.Err()
		}
		d.cond.Wait()
	}
	if d.closed {
		return dst, client.ErrClosed
	}
	return d.take(n, dst), nil
}

func (d *memDev) Free(bufs []*client.Buf) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.freeLocked(bufs)
}

func (d *memDev) freeLocked(bufs []*client.Buf) {
	for _, b := range bufs {
		if b == zeroPage {
			continue
		}
		held := d.isHeld(b)
		if !*held {
			panic("buffer freed twice")
		}
		if !d.inline {
			copy(b.Page, poison)
		}
		*held = false
		d.arena = append(d.arena, b)
	}
	if !d.inline || d.want > 0 {
		d.cond.Broadcast()
	}
}

func (d *memDev) Submit(op *client.Op) {
	if op.Off < 0 || op.Len < 0 || op.Off+op.Len > d.size {
		panic(fmt.Sprintf("op at %d of %d bytes", op.Off, op.Len))
	}
	if op.Kind == client.OpWrite && len(op.Bufs) != pagesOf(op) {
		panic("write with too few or too many buffers")
	}
	if op.Kind == client.OpRead && len(op.Bufs) != 0 {
		panic("read with buffers")
	}
	d.mu.Lock()
	d.submitted = append(d.submitted, op)
	d.mu.Unlock()
}

func pagesOf(op *client.Op) int {
	if op.Len == 0 {
		return 0
	}
	return int((op.Off+op.Len-1)/pageSize - op.Off/pageSize + 1)
}

func (d *memDev) Kick() {
	d.mu.Lock()
	d.kicks++
	d.ready = append(d.ready, d.submitted...)
	d.submitted = d.submitted[:0]
	if d.inline {
		for i := 0; i < len(d.ready); i++ {
			op := d.ready[i]
			d.perform(op)
			d.mu.Unlock()
			op.Done(op)
			d.mu.Lock()
		}
		d.ready = d.ready[:0]
	}
	d.cond.Broadcast()
	d.mu.Unlock()
}

// work completes what was kicked, in any order.
func (d *memDev) work(rnd *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		i := d.pick(rnd)
		for !d.closed && i < 0 {
			d.cond.Wait()
			i = d.pick(rnd)
		}
		if d.closed {
			return
		}
		op := d.ready[i]
		last := len(d.ready) - 1
		d.ready[i] = d.ready[last]
		d.ready = d.ready[:last]
		d.running++
		d.perform(op)
		d.mu.Unlock()
		op.Done(op)
		d.mu.Lock()
		d.running--
		if d.pick(rnd) < 0 || rnd.IntN(4) == 0 { // before it waits, and now and then
			d.running++ // OnIdle's removal does not wait for us, the arena check does
			d.rest()
			d.mu.Lock()
			d.running--
		}
	}
}

// rest unlocks d and lets the front ends flush what a worker has completed.
func (d *memDev) rest() {
	var fs []func()
	for _, f := range d.idle {
		fs = append(fs, f)
	}
	d.mu.Unlock()
	for _, f := range fs {
		f()
	}
}

// pick is the index of any op that can be done now, -1 without one. A read
// waits for buffers; writes, which give some back, pass it.
func (d *memDev) pick(rnd *rand.Rand) int {
	n := len(d.ready)
	if n == 0 || d.paused {
		return -1
	}
	for i, start := 0, rnd.IntN(n); i < n; i++ {
		op := d.ready[(start+i)%n]
		if op.Kind != client.OpRead || pagesOf(op) <= len(d.arena) {
			return (start + i) % n
		}
	}
	return -1
}

// perform does op. Locked.
func (d *memDev) perform(op *client.Op) {
	op.Err = nil
	if d.fault != nil {
		op.Err = d.fault(op)
	}
	first := op.Off / pageSize
	switch op.Kind {
	case client.OpRead:
		if op.Err != nil {
			return
		}
		for p := first; p*pageSize < op.Off+op.Len; p++ {
			if !d.mapped[p] {
				op.Bufs = append(op.Bufs, zeroPage)
				continue
			}
			op.Bufs = d.take(1, op.Bufs)
			copy(op.Bufs[p-first].Page, d.data[p*pageSize:])
		}
	case client.OpWrite:
		if op.Err == nil {
			for off := op.Off; off < op.Off+op.Len; {
				end := min(op.Off+op.Len, (off/pageSize+1)*pageSize)
				at := off % pageSize
				copy(d.data[off:end], op.Bufs[off/pageSize-first].Page[at:])
				d.mapped[off/pageSize] = true
				off = end
			}
		}
		d.freeLocked(op.Bufs)
	case client.OpTrim, client.OpZero:
		if op.Err != nil {
			return
		}
		if op.Len > 32<<20 {
			panic("longer than an op may be")
		}
		clear(d.data[op.Off : op.Off+op.Len])
		for p := (op.Off + pageSize - 1) / pageSize; (p+1)*pageSize <= op.Off+op.Len; p++ {
			d.mapped[p] = false
		}
	}
}

func (d *memDev) OnIdle(f func()) (remove func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := d.nextIdle
	d.nextIdle++
	d.idle[id] = f
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.idle, id)
		d.cond.Broadcast()
	}
}

func (d *memDev) Extents(off, n int64, most int, dst []client.Extent) []client.Extent {
	d.mu.Lock()
	defer d.mu.Unlock()
	from := len(dst)
	for end := off + n; off < end; {
		next := min(end, (off/pageSize+1)*pageSize)
		hole := !d.mapped[off/pageSize]
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

// setFault makes ops end with what f says from now on.
func (d *memDev) setFault(f func(*client.Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// pause holds all completions back, or lets them go.
func (d *memDev) pause(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.paused = on
	d.cond.Broadcast()
}

// waitFor blocks until what holds of the device. Locked while it is called.
func (d *memDev) waitFor(what func() bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for !what() {
		d.cond.Wait()
	}
}

func (d *memDev) freePages() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.arena)
}

// holds compares what is stored at off.
func (d *memDev) holds(off int64, want []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Equal(d.data[off:off+int64(len(want))], want)
}
