package devicetest

import (
	"bytes"
	"context"
	"fmt"
	"unsafe"

	"dmps/client"
)

// zeroPage is the constant page that holes read as.
var zeroPage = &client.Buf{Page: make([]byte, pageSize)}

var poison = bytes.Repeat([]byte{0xdb}, pageSize)

// arena are the page buffers of a Device, guarded by its mutex.
type arena struct {
	free []*client.Buf
	mem  []byte // their pages
	held []bool // by page of mem: handed out
	want int    // pages that front ends wait for in Alloc
}

func newArena(pages int) arena {
	a := arena{mem: make([]byte, pages*pageSize), held: make([]bool, pages)}
	for i := range pages {
		a.free = append(a.free, &client.Buf{Page: a.mem[i*pageSize:][:pageSize:pageSize]})
	}
	return a
}

// isHeld is the mark of one buffer of the arena. It panics for any other.
func (a *arena) isHeld(b *client.Buf) *bool {
	at := uintptr(unsafe.Pointer(&b.Page[0])) - uintptr(unsafe.Pointer(&a.mem[0]))
	return &a.held[at/pageSize]
}

// take takes n buffers. There must be as many.
func (m *Device) take(n int, dst []*client.Buf) []*client.Buf {
	k := len(m.arena.free) - n
	for _, b := range m.arena.free[k:] {
		*m.arena.isHeld(b) = true
		dst = append(dst, b)
	}
	m.arena.free = m.arena.free[:k]
	if !m.inline {
		m.cond.Broadcast()
	}
	return dst
}

// TryAlloc implements client.Device.
func (m *Device) TryAlloc(n int, dst []*client.Buf) ([]*client.Buf, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n < 1 || n > client.MaxOpPages {
		panic(fmt.Sprintf("alloc of %d pages", n))
	}
	if len(m.arena.free) < n || m.closed {
		return dst, false
	}
	return m.take(n, dst), true
}

// Alloc implements client.Device.
func (m *Device) Alloc(ctx context.Context, n int, dst []*client.Buf) ([]*client.Buf, error) {
	defer context.AfterFunc(ctx, func() {
		m.mu.Lock()
		m.cond.Broadcast()
		m.mu.Unlock()
	})()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.arena.want += n
	defer func() { m.arena.want -= n }()
	for {
		switch {
		case m.closed:
			return dst, client.ErrClosed
		case ctx.Err() != nil:
			return dst, ctx.Err()
		case len(m.arena.free) >= n:
			return m.take(n, dst), nil
		}
		m.cond.Wait()
	}
}

// Free implements client.Device.
func (m *Device) Free(bufs []*client.Buf) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.freeLocked(bufs)
}

func (m *Device) freeLocked(bufs []*client.Buf) {
	for _, b := range bufs {
		if b == zeroPage {
			continue
		}
		held := m.arena.isHeld(b)
		if !*held {
			panic("buffer freed twice")
		}
		if !m.inline {
			copy(b.Page, poison)
		}
		*held = false
		m.arena.free = append(m.arena.free, b)
	}
	if !m.inline || m.arena.want > 0 {
		m.cond.Broadcast()
	}
}
