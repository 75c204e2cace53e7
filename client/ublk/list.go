package ublk

import (
	"sync/atomic"
	"time"
)

// list takes calls from any goroutine to the thread of their queue, without a
// lock and without allocating: who puts never waits for anybody.
type list struct {
	head atomic.Pointer[call] // the latest first
	// asleep is set while the thread is, or is about to be, in the kernel with
	// nothing to do. Whoever clears it wakes it: one wake-up for everything that
	// is put until it runs.
	asleep atomic.Bool
	// wakers are the goroutines that may touch the port. The thread must not
	// wait for them but at its end: woken on the processor of one of them, it
	// runs first, and at a real-time priority for as long as it likes.
	wakers atomic.Int32
}

// put adds k.
func (l *list) put(k *call) {
	for {
		k.next = l.head.Load()
		if l.head.CompareAndSwap(k.next, k) {
			return
		}
	}
}

// rouse calls wake if the thread sleeps and nobody else is waking it.
func (l *list) rouse(q *queue) {
	l.wakers.Add(1)
	if l.asleep.Load() && l.asleep.CompareAndSwap(true, false) {
		q.port.wake()
	}
	l.wakers.Add(-1)
}

// take returns everything that was put, in that order, as a list.
func (l *list) take() *call {
	if l.head.Load() == nil {
		return nil
	}
	k := l.head.Swap(nil)
	var first *call
	for k != nil {
		next := k.next
		k.next, first = first, k
		k = next
	}
	return first
}

// rest announces that the thread will sleep, and reports whether it may:
// nothing was put before. Call rise afterwards. The thread's.
func (l *list) rest() bool {
	l.asleep.Store(true)
	if l.head.Load() == nil {
		return true
	}
	l.rise()
	return false
}

func (l *list) rise() { l.asleep.Store(false) }

// settled waits until nobody touches the port any more. The thread's, when it
// will not rest again.
func (l *list) settled() {
	for l.wakers.Load() != 0 {
		time.Sleep(settlePoll)
	}
}

const settlePoll = time.Millisecond
