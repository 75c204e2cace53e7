//go:build fabric && cgo

package fabric

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"fmt"
	"time"
	"unsafe"
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
}

func (d *domain) endpoint() (*endpoint, error) {
	e := new(endpoint)
	if err := failed(C.fab_ep_open(d.c, &e.c)); err != nil {
		return nil, fmt.Errorf("opening an endpoint of %s: %w", d.caps.provider, err)
	}
	e.ends = (*[pollEnds]C.struct_fab_done)(C.calloc(pollEnds, C.sizeof_struct_fab_done))
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
func (e *endpoint) sleeps() bool { return C.fab_ep_sleeps(e.c) != 0 }

// ring makes b the bell of both ends. It is closed with the endpoint.
func (e *endpoint) ring(b *bell, listens bool) {
	e.bell = b
	l := C.int(0)
	if listens {
		l = 1
	}
	C.fab_ep_bell(e.c, C.uint64_t(address(b.mem)), l)
}

// forever is no limit of a poll.
const forever time.Duration = -1

// poll makes progress and returns the number of ends, which end gives. When
// there is none it looks again for spin, then sleeps, wait in all. With idle
// only wake ends the sleep. One goroutine at a time.
func (e *endpoint) poll(spin, wait time.Duration, idle bool) (int, error) {
	us := C.int64_t(wait / time.Microsecond)
	if wait < 0 {
		us = -1
	}
	i := C.int(0)
	if idle {
		i = 1
	}
	n := C.fab_poll(e.c, &e.ends[0], pollEnds, C.int64_t(spin/time.Microsecond), us, i)
	if n < 0 {
		return 0, fmt.Errorf("looking for completions: %w", failed(n))
	}
	return int(n), nil
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

// wake ends the poll that runs, or the next one.
func (e *endpoint) wake() { C.fab_wake(e.c) }

// close ends the endpoint. No other method may be under way.
func (e *endpoint) close() error {
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
