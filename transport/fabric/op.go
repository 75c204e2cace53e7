//go:build fabric && cgo

package fabric

// #include "shim.h"
import "C"

import (
	"fmt"
	"unsafe"
)

const (
	opRead  = uint32(C.FAB_READ)
	opWrite = uint32(C.FAB_WRITE)

	// delivered: the operation ends only when its bytes are at the server.
	delivered = uint32(C.FAB_DELIVERED)
)

// op is one operation as the shim takes it, in C memory.
type op C.struct_fab_op

// set makes o an operation on the peer's memory at off of k.
func (o *op) set(kind uint32, ctx uint64, flags uint32, k key, off uint64) {
	o.ctx, o.kind, o.flags = C.uint64_t(ctx), C.uint32_t(kind), C.uint32_t(flags)
	o.iovs, o.rmas = 0, 0
	o.at(k, off)
}

// at makes what piece appends go on at off of k.
func (o *op) at(k key, off uint64) {
	if o.rmas == C.FAB_IOVS {
		panic("fabric: an operation on too many pieces")
	}
	r := &o.rma[o.rmas]
	r.addr, r.len, r.key = C.uint64_t(k.addr+off), 0, C.uint64_t(k.key)
	o.rmas++
}

// takes reports whether piece may be called with mem, if an operation has iovs
// pieces at most.
func (o *op) takes(mem []byte, iovs int) bool {
	k := o.iovs
	return int(k) < iovs || o.iov[k-1].addr+o.iov[k-1].len == C.uint64_t(address(mem))
}

// piece appends local memory, joined with the piece before it where it can be.
func (o *op) piece(mem []byte) {
	a, n := C.uint64_t(address(mem)), C.uint64_t(len(mem))
	o.rma[o.rmas-1].len += n
	if k := o.iovs; k > 0 {
		if l := &o.iov[k-1]; l.addr+l.len == a {
			l.len += n
			return
		}
	}
	if o.iovs == C.FAB_IOVS {
		panic("fabric: an operation of too many pieces")
	}
	o.iov[o.iovs].addr, o.iov[o.iovs].len = a, n
	o.iovs++
}

// ring holds the operations that are to be posted, in order. It lies in C
// memory, so that one call can post many.
type ring struct {
	mem  []byte
	ops  []op
	head uint32 // next to post
	tail uint32 // next to add. tail-head are waiting, at most len(ops)
}

// newRing makes room for n operations, rounded up to a power of two.
func newRing(n int) (ring, error) {
	size := 1
	for size < n {
		size *= 2
	}
	mem, err := mapMemory(size * int(unsafe.Sizeof(op{})))
	if err != nil {
		return ring{}, err
	}
	return ring{mem: mem, ops: unsafe.Slice((*op)(unsafe.Pointer(unsafe.SliceData(mem))), size)}, nil
}

func (r *ring) waiting() int { return int(r.tail - r.head) }

// add gives the next place. There is one: the caller bounds what is in flight.
func (r *ring) add() *op {
	if r.waiting() == len(r.ops) {
		panic("fabric: more operations than the window allows")
	}
	o := &r.ops[r.tail&uint32(len(r.ops)-1)]
	r.tail++
	return o
}

// post posts what waits, limit operations at most, as far as the provider
// takes it, and returns how many.
func (r *ring) post(e *endpoint, limit int) (int, error) {
	done := 0
	for r.waiting() > 0 && done < limit {
		at := int(r.head & uint32(len(r.ops)-1))
		n := min(r.waiting(), len(r.ops)-at, limit-done)
		k := C.fab_post(e.c, (*C.struct_fab_op)(&r.ops[at]), C.int(n))
		if k < 0 {
			return done, fmt.Errorf("posting a one-sided transfer: %w", failed(k))
		}
		r.head += uint32(k)
		done += int(k)
		if int(k) < n {
			break
		}
	}
	return done, nil
}

func (r *ring) free() {
	unmapMemory(r.mem)
	*r = ring{}
}
