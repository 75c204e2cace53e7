package ublk

import "testing"

// A call that was put before the thread announced that it sleeps is seen: nobody
// wakes a thread that did not sleep yet.
func TestRestLooksAgain(t *testing.T) {
	p := &bellPort{bell: make(chan struct{}, 1)}
	q := &queue{port: p}
	q.put(&call{q: q})
	if len(p.bell) > 0 {
		t.Error("a thread that does not sleep was woken")
	}
	if q.done.rest() {
		t.Error("the thread sleeps with an answer in its list")
	}
	if q.done.asleep.Load() {
		t.Error("the thread is awake and said to sleep")
	}
	if q.done.take() == nil {
		t.Error("the answer is not there")
	}
	if !q.done.rest() {
		t.Error("the thread does not sleep with nothing to do")
	}
	q.put(&call{q: q})
	if len(p.bell) != 1 {
		t.Error("a thread that sleeps was not woken")
	}
	q.put(&call{q: q})
	if len(p.bell) != 1 {
		t.Error("it was woken twice")
	}
}

// bellPort is a port that can only be woken.
type bellPort struct {
	port
	bell chan struct{}
}

func (p *bellPort) wake() { p.bell <- struct{}{} }
