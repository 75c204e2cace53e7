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
	if k := q.done.take(); k == nil || k.next != nil {
		t.Error("the answer is not there, or not alone")
	}
	if !q.done.rest() {
		t.Error("the thread does not sleep with nothing to do")
	}
	q.put(&call{q: q})
	if len(p.bell) != 1 {
		t.Fatal("a thread that sleeps was not woken")
	}
	q.put(&call{q: q})
	if len(p.bell) != 1 {
		t.Fatal("it was woken twice")
	}
	q.done.rise()
	if k := q.done.take(); k == nil || k.next == nil || k.next.next != nil {
		t.Error("there are not two answers")
	}
	<-p.bell
	q.done.rouse(q)
	if len(p.bell) != 0 {
		t.Error("a thread that works was woken")
	}
	if !q.done.rest() {
		t.Error("the thread does not sleep with nothing to do")
	}
	q.done.rise()
	if q.done.take() != nil {
		t.Error("an answer that nobody gave")
	}
	q.done.rest()
	q.done.rouse(q)
	if len(p.bell) != 1 {
		t.Error("a thread that sleeps was not roused")
	}
}

// bellPort is a port that can only be woken.
type bellPort struct {
	port
	bell chan struct{}
}

func (p *bellPort) wake() { p.bell <- struct{}{} }
