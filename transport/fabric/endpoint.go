//go:build fabric && cgo

package fabric

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pollEnds is how many ends of operations one poll gives.
const pollEnds = 64

// endpoint is one end of one session: fi_endpoint(3) with a completion queue of
// its own, and one peer. Closing it is the certain end of its operations, on
// this side: no local memory of its own operations is touched any more, and
// none of the peer's lands.
type endpoint struct {
	c    *C.struct_fab_ep
	ends *[pollEnds]C.struct_fab_done // C memory, of poll
	bell *bell                        // nil: the provider needs none

	sleeper *sleeper      // nil: the provider has no descriptor
	atMost  time.Duration // bounds a sleep on it: lookEvery, restEvery
	woken   atomic.Bool
	asleep  atomic.Bool // woken alone is not enough
	serves  bool        // the peer does the operations, by this end's CPU: there are no ends here
	busy    spinner     // of poll: for what the peer does
	resting spinner     // and for wake

	// Of sleep.
	look   func() bool // awake
	idle   bool
	found  C.int
	roused bool // something ended the sleep before its time
	bored  bool // the sleep before ended without: looking again is not worth it
}

func (d *domain) endpoint() (*endpoint, error) {
	e := &endpoint{atMost: lookEvery}
	if err := failed(C.fab_ep_open(d.c, &e.c)); err != nil {
		return nil, fmt.Errorf("opening an endpoint of %s: %w", d.caps.provider, err)
	}
	e.ends = (*[pollEnds]C.struct_fab_done)(C.calloc(pollEnds, C.sizeof_struct_fab_done))
	e.look = e.awake
	if fd := int(C.fab_fd(e.c)); fd >= 0 {
		var err error
		if e.sleeper, err = newSleeper(fd); err != nil {
			return nil, errors.Join(err, e.close())
		}
	}
	return e, nil
}

// address is the endpoint's, for its peer.
func (e *endpoint) address() ([]byte, error) {
	b := C.calloc(1, C.FAB_ADDR)
	defer C.free(b)
	n := C.size_t(C.FAB_ADDR)
	if err := failed(C.fab_ep_name(e.c, C.uint64_t(uintptr(b)), &n)); err != nil {
		return nil, fmt.Errorf("asking for an endpoint's address: %w", err)
	}
	return C.GoBytes(b, C.int(min(n, C.FAB_ADDR))), nil
}

// connect says who the peer is. It sends nothing.
func (e *endpoint) connect(addr []byte) error {
	b := C.CBytes(addr)
	defer C.free(b)
	if err := failed(C.fab_ep_peer(e.c, C.uint64_t(uintptr(b)), C.size_t(len(addr)))); err != nil {
		return fmt.Errorf("taking a peer's address: %w", err)
	}
	return nil
}

// sleeps reports whether poll can sleep until the peer does something. Without
// that the two ends need a bell.
func (e *endpoint) sleeps() bool { return e.sleeper != nil }

// bellSpin is how long the end that listens looks for more, after a ring, before
// its first nap: as long as it takes to copy a transfer of 128 KiB, and some. Longer
// is slower when both ends are on one core: with 200 us a transfer took 180,
// sched_yield(2) or not.
const bellSpin = 40 * time.Microsecond

// ring makes b the bell of both ends. It is closed with the endpoint.
func (e *endpoint) ring(b *bell, listens bool) {
	e.bell = b
	l, spin := C.int(0), time.Duration(0)
	if listens {
		l, spin = 1, bellSpin
	}
	C.fab_ep_bell(e.c, C.uint64_t(address(b.mem)), l, C.int64_t(spin/time.Microsecond))
}

// forever is no limit of a poll.
const forever time.Duration = -1

// lookEvery bounds how long a poll sleeps on a descriptor: whatever a provider
// forgets to tell costs that, and not the session. (So found: a rest of data in
// a socket, see fab_may_sleep, and one on its way out, see conn.Kick.)
const lookEvery = 10 * time.Millisecond

// yieldLooks is after how many looks in vain the core is offered to other threads, by
// an end without a descriptor: to the other end, where the system has put both on one
// core. It leaves them there as long as both sleep often, and a transfer then took
// twenty times as long. With a descriptor an end soon sleeps, which offers the core
// too: there it cost more than it brought, 70 us a round trip over tcp instead of 11, and on a
// machine whose cores were busy 1.7 ms instead of 11 us, a time slice of others.
const yieldLooks = 8

// restEvery is lookEvery of an end that has nothing to do: that of a server whose
// memory the network card reads and writes by itself. A look has a price, and a
// server has a session for each client.
const restEvery = time.Second

// poll makes progress and returns the number of ends, which end gives. When
// there is none it looks again for spin at most, then sleeps, for wait at most. With
// idle only wake ends the sleep. One goroutine at a time.
//
// The looks are short calls, with other goroutines let in between: one that
// Done made ready must not wait for the scheduler to notice a thread in C.
func (e *endpoint) poll(spin, wait time.Duration, idle bool) (int, error) {
	s := &e.busy
	if idle {
		s = &e.resting
	}
	limit := s.time(spin)
	if e.bored {
		limit = 0 // an end that nobody uses looks a hundred times a second, and no longer
	}
	e.bored = false
	var from time.Time
	for looks := 1; ; looks++ {
		stirred := e.stirred()
		n, err := e.once()
		woken := n == 0 && err == nil && e.woken.Swap(false)
		if !from.IsZero() && (n != 0 || stirred || woken && idle) {
			s.found()
		}
		if n != 0 || err != nil || woken {
			return n, err
		}
		now := time.Now()
		if stirred {
			from, limit = now, s.time(spin)
		} else if from.IsZero() {
			from = now
		}
		if now.Sub(from) >= limit {
			break
		}
		runtime.Gosched()
		if e.sleeper == nil && looks%yieldLooks == 0 {
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // never fails
		}
	}
	e.asleep.Store(true) // from here on wake does more than set woken
	defer e.asleep.Store(false)
	if e.woken.Swap(false) {
		return 0, nil
	}
	n, err := e.rest(wait, idle)
	if e.bored = !e.roused; e.roused {
		s.slept(time.Since(from))
	}
	return n, err
}

// rest is the sleep of poll.
func (e *endpoint) rest(wait time.Duration, idle bool) (int, error) {
	if e.sleeper != nil {
		return e.sleep(wait, idle)
	}
	if idle {
		wait = forever // its wake alone is waited for; a look now and then is cheap
	}
	us := C.int64_t(wait / time.Microsecond)
	if wait < 0 {
		us = -1
	}
	n := C.fab_nap(e.c, &e.ends[0], pollEnds, us)
	woken := e.woken.Swap(false)
	e.roused = woken || n != 0
	return looked(n)
}

// stirred reports whether the peer has sent something that the next look will meet:
// all that an end that serves ever sees of its work.
func (e *endpoint) stirred() bool { return e.serves && C.fab_stirred(e.c) != 0 }

// once is one look, which does not wait.
func (e *endpoint) once() (int, error) {
	return looked(C.fab_poll(e.c, &e.ends[0], pollEnds))
}

func looked(n C.int) (int, error) {
	if n < 0 {
		return 0, fmt.Errorf("looking for completions: %w", failed(n))
	}
	return int(n), nil
}

// awakeLooks bounds how often awake looks in vain before others get their turn.
const awakeLooks = 16

// sleep waits on the descriptor.
func (e *endpoint) sleep(wait time.Duration, idle bool) (int, error) {
	if wait < 0 && !idle || wait > e.atMost {
		wait = e.atMost
	}
	e.idle, e.found, e.roused = idle, 0, false
	if err := e.sleeper.wait(wait, e.look); err != nil {
		return 0, err
	}
	return looked(e.found)
}

// awake is one look of sleep: it reports whether there is something to do.
func (e *endpoint) awake() bool {
	e.roused = e.rouse()
	return e.roused
}

func (e *endpoint) rouse() bool {
	if e.stirred() {
		e.found = C.fab_poll(e.c, &e.ends[0], pollEnds)
		return true
	}
	for range awakeLooks {
		if e.woken.Swap(false) {
			return true
		}
		if e.found = C.fab_poll(e.c, &e.ends[0], pollEnds); e.found != 0 {
			return true
		}
		if e.idle || C.fab_may_sleep(e.c) == 0 {
			return e.woken.Swap(false) // or between the two
		}
	}
	return true
}

// end is the i-th end that poll found: the context of the operation, and its
// failure.
func (e *endpoint) end(i int) (ctx uint64, err error) {
	d := &e.ends[i]
	if d.err != 0 {
		err = fmt.Errorf("one-sided transfer: %w", &fabricError{int(d.err), C.GoString(C.fab_strerror(C.int(d.err)))})
	}
	return uint64(d.ctx), err
}

// wake ends the poll that runs, or the next one. Any goroutine.
func (e *endpoint) wake() {
	e.woken.Store(true)
	switch {
	case !e.asleep.Load(): // it will see woken
	case e.sleeper != nil:
		e.sleeper.wake()
	default:
		C.fab_wake(e.c)
	}
}

// sleeping reports whether poll sleeps, or is about to.
func (e *endpoint) sleeping() bool { return e.asleep.Load() }

// close ends the endpoint. No other method may be under way.
func (e *endpoint) close() error {
	if e.sleeper != nil {
		e.sleeper.close()
	}
	err := failed(C.fab_ep_close(e.c))
	C.free(unsafe.Pointer(e.ends))
	e.c, e.ends = nil, nil
	if e.bell != nil {
		e.bell.close()
	}
	if err != nil {
		return fmt.Errorf("closing an endpoint: %w", err)
	}
	return nil
}
