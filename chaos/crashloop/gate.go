package crashloop

import (
	"errors"
	"sync"
	"syscall"
)

// gateMode is what a gate does with what wants to pass.
type gateMode uint8

const (
	gateOpen   gateMode = iota
	gateSilent          // nothing passes, no connection breaks
	gateDown            // connections break, and none is made
	gateRefuse          // likewise, and who dials is told that nobody listens
)

func (m gateMode) String() string { return [...]string{"open", "silent", "down", "refusing"}[m] }

var errCut = errors.New("the connection broke")

func (m gateMode) err() error {
	if m == gateRefuse {
		return syscall.ECONNREFUSED
	}
	return errCut
}

// gate is a place on the way to a server.
type gate struct {
	mu      sync.Mutex
	mode    gateMode
	changed chan struct{} // closed and replaced when mode changes
}

func newGate() *gate { return &gate{changed: make(chan struct{})} }

func (g *gate) set(m gateMode) { setAll(m, g) }

// setAll sets gates at one moment: who sees that one is down sees it of the others.
func setAll(m gateMode, gs ...*gate) {
	for _, g := range gs {
		g.mu.Lock()
		defer g.mu.Unlock()
	}
	for _, g := range gs {
		g.mode = m
		close(g.changed)
		g.changed = make(chan struct{})
	}
}

func (g *gate) state() (gateMode, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mode, g.changed
}

// gates are all on the way, and the worst of them counts.
type gates [2]*gate

// mode is that of the worst.
func (gs gates) mode() gateMode {
	a, _ := gs[0].state()
	b, _ := gs[1].state()
	return max(a, b)
}

// pass waits until all are open. It returns an error when one is down, and nil
// with false when stop was closed first.
func (gs gates) pass(stop ...<-chan struct{}) (bool, error) {
	for {
		a, ca := gs[0].state()
		b, cb := gs[1].state()
		switch m := max(a, b); m {
		case gateOpen:
			return true, nil
		case gateDown, gateRefuse:
			return false, m.err()
		}
		var other <-chan struct{}
		if len(stop) > 1 {
			other = stop[1]
		}
		select {
		case <-ca:
		case <-cb:
		case <-stop[0]:
			return false, nil
		case <-other:
			return false, nil
		}
	}
}

// down waits until one is down, or stop is closed: then it is nil.
func (gs gates) down(stop <-chan struct{}) error {
	for {
		a, ca := gs[0].state()
		b, cb := gs[1].state()
		if m := max(a, b); m >= gateDown {
			return m.err()
		}
		select {
		case <-ca:
		case <-cb:
		case <-stop:
			return nil
		}
	}
}
