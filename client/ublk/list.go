package ublk

import (
	"sync/atomic"
	"time"
)

// list takes calls from any goroutine to the thread of their queue, without a
// lock and without allocating: who puts never waits for anybody.
type list struct {
	// head is the latest call, or resting while the thread is, or is about to be,
	// in the kernel with nothing to do. Both are in one word, so that no call can be
	// put without its thread being awake or being woken. Whoever replaces resting
	// wakes it: one wake-up for everything that is put until it runs.
	head atomic.Pointer[call]
	// wakers are the goroutines that may touch the port. The thread must not
	// wait for them but at its end: woken on the processor of one of them, it
	// runs first, and at a real-time priority for as long as it likes.
	wakers atomic.Int32
}

// resting is no call: it is in the place of one while the thread rests.
var resting = new(call)

// put adds k, and wakes the thread of q if it rests.
func (l *list) put(q *queue, k *call) {
	l.wakers.Add(1)
	for {
		head := l.head.Load()
		if k.next = head; head == resting {
			k.next = nil
		}
		if l.head.CompareAndSwap(head, k) {
			if head == resting {
				q.port.wake()
			}
			break
		}
	}
	l.wakers.Add(-1)
}

// rouse wakes the thread of q if it rests.
func (l *list) rouse(q *queue) {
	l.wakers.Add(1)
	if l.head.CompareAndSwap(resting, nil) {
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

// rest announces that the thread will sleep, and reports whether it may: nothing
// was put before. Call rise afterwards. The thread's.
func (l *list) rest() bool { return l.head.CompareAndSwap(nil, resting) }

// rise takes the announcement back, if nobody has.
func (l *list) rise() { l.head.CompareAndSwap(resting, nil) }

// settled waits until nobody touches the port any more. The thread's, when it
// will not rest again.
func (l *list) settled() {
	for l.wakers.Load() != 0 {
		time.Sleep(settlePoll)
	}
}

const settlePoll = time.Millisecond
