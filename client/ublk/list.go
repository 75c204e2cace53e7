package ublk

import (
	"runtime"
	"sync/atomic"
)

// list takes calls from any goroutine to the thread of their queue, without a
// lock and without allocating: who puts never waits for anybody.
type list struct {
	head atomic.Pointer[call] // the latest first
	// state says whether the thread sleeps. One wake-up serves everything that
	// is put until the thread runs.
	state atomic.Uint32
}

const (
	awake  uint32 = iota // it will look at the list before it sleeps
	asleep               // it is in the kernel with nothing to do, or about to be
	rising               // somebody is waking it, and touches the port
)

// put adds k.
func (l *list) put(k *call) {
	for {
		k.next = l.head.Load()
		if l.head.CompareAndSwap(k.next, k) {
			return
		}
	}
}

// wakeUp reports whether the caller has to wake the thread, and call woken then.
func (l *list) wakeUp() bool {
	return l.state.Load() == asleep && l.state.CompareAndSwap(asleep, rising)
}

func (l *list) woken() { l.state.Store(awake) }

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
// nothing was put and nobody is waking it. Call rise afterwards. The thread's.
func (l *list) rest() bool {
	if !l.state.CompareAndSwap(awake, asleep) {
		return false // rising: there will be an event
	}
	if l.head.Load() == nil {
		return true
	}
	l.rise()
	return false
}

// rise takes rest back. Who is waking the thread goes on with it. The thread's.
func (l *list) rise() { l.state.CompareAndSwap(asleep, awake) }

// settled waits until nobody is waking the thread any more. The thread's, when
// it will not rest again.
func (l *list) settled() {
	for l.state.Load() != awake {
		runtime.Gosched()
	}
}
