package transport

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// Regions is the registered memory of a Dialer.
type Regions struct {
	list   atomic.Pointer[[]region]
	sealed atomic.Bool
}

type region struct{ lo, hi uintptr }

// Add registers mem. It fails for memory that is empty or registered already,
// and after Seal.
func (r *Regions) Add(mem []byte) error {
	if len(mem) == 0 {
		return errors.New("transport: registration of no memory")
	}
	if r.sealed.Load() {
		return errors.New("transport: registration after the first dial")
	}
	lo := uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
	n := region{lo, lo + uintptr(len(mem))}
	for {
		old := r.list.Load()
		var l []region
		if old != nil {
			l = *old
		}
		for _, o := range l {
			if n.lo < o.hi && o.lo < n.hi {
				return fmt.Errorf("transport: %d bytes overlap registered memory", len(mem))
			}
		}
		l = append(l[:len(l):len(l)], n)
		if r.list.CompareAndSwap(old, &l) {
			return nil
		}
	}
}

// Seal ends registration: a session exists.
func (r *Regions) Seal() { r.sealed.Store(true) }

func (r *Regions) holds(b []byte) bool {
	lo := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	hi := lo + uintptr(len(b))
	l := r.list.Load()
	if l == nil {
		return false
	}
	for _, o := range *l {
		if lo >= o.lo && hi <= o.hi {
			return true
		}
	}
	return false
}

// Check panics when q is not what the contract of Request says: misuse must
// show with the caller on the stack, not as somebody else's bytes. It returns
// the header size and the mask of segments with a page.
func (r *Regions) Check(q *Request) (headerBytes int, mask uint32) {
	if q.Done == nil {
		panic("transport: request without Done")
	}
	n := len(q.Segs)
	if n < 1 || n > MaxSegs {
		panic(fmt.Sprintf("transport: request of %d segments", n))
	}
	if q.Op == OpReadHeaders {
		b := q.Segs[0].Header
		if n != 1 || q.Count < 1 || len(b) > MaxHeadersBytes || len(b)%q.Count != 0 || len(b) == 0 || len(b)/q.Count > MaxHeaderBytes {
			panic(fmt.Sprintf("transport: %d headers into %d bytes", q.Count, len(b)))
		}
		r.mustHold(b)
		return len(b) / q.Count, 0
	}
	if q.Op != OpRead && q.Op != OpWrite {
		panic(fmt.Sprintf("transport: operation %d", q.Op))
	}
	headerBytes = len(q.Segs[0].Header)
	if headerBytes < 1 || headerBytes > MaxHeaderBytes {
		panic(fmt.Sprintf("transport: header of %d bytes", headerBytes))
	}
	for i := range q.Segs {
		s := &q.Segs[i]
		if len(s.Header) != headerBytes {
			panic(fmt.Sprintf("transport: headers of %d and %d bytes in one request", headerBytes, len(s.Header)))
		}
		r.mustHold(s.Header)
		if s.Page == nil {
			continue
		}
		if len(s.Page) != PageSize {
			panic(fmt.Sprintf("transport: page of %d bytes", len(s.Page)))
		}
		r.mustHold(s.Page)
		mask |= 1 << i
	}
	return headerBytes, mask
}

func (r *Regions) mustHold(b []byte) {
	if !r.holds(b) {
		panic("transport: memory that was not registered")
	}
}

// AppendRuns appends the slots of segs as runs to dst.
func AppendRuns(dst []Run, segs []Seg) []Run {
	for i := range segs {
		x := segs[i].Index
		if k := len(dst) - 1; k >= 0 && dst[k].Start+dst[k].Count == x && x != 0 {
			dst[k].Count++
			continue
		}
		dst = append(dst, Run{Start: x, Count: 1})
	}
	return dst
}
