package client

import "dmps/raid"

// pending is the table of pages that were accepted and are not answered yet:
// for each the oldest version, the newer ones chained to it. A page-in looks
// here first, so that it sees the newest accepted page-out.
//
// It is a hash table of fixed size through the buffers themselves: it cannot
// grow, and it cannot be larger than the arena.
type pending struct {
	table []*Buf
	shift uint
	n     int
}

func newPending(bufs int) *pending {
	bits := uint(4)
	for 1<<bits < 2*bufs {
		bits++
	}
	return &pending{table: make([]*Buf, 1<<bits), shift: 64 - bits}
}

func (t *pending) bucket(p raid.PageNo) **Buf {
	// Fibonacci hashing: neighbouring pages, the common case, spread.
	return &t.table[uint64(p)*0x9e3779b97f4a7c15>>t.shift]
}

// oldest is the version of page p that is being written, or nil.
func (t *pending) oldest(p raid.PageNo) *Buf {
	if t.n == 0 {
		return nil
	}
	for b := *t.bucket(p); b != nil; b = b.hash {
		if b.page == p {
			return b
		}
	}
	return nil
}

// newest is the version of page p that a read must see, or nil.
func (t *pending) newest(p raid.PageNo) *Buf {
	b := t.oldest(p)
	for b != nil && b.newer != nil {
		b = b.newer
	}
	return b
}

// add enters the first version of a page.
func (t *pending) add(b *Buf) {
	at := t.bucket(b.page)
	b.hash = *at
	*at = b
	t.n++
}

// replace puts next, the following version or nil, in the place of b.
func (t *pending) replace(b, next *Buf) {
	at := t.bucket(b.page)
	for *at != b {
		if *at == nil {
			panic("client: page-out is not in the pending table")
		}
		at = &(*at).hash
	}
	if next == nil {
		*at = b.hash
		t.n--
	} else {
		next.hash = b.hash
		*at = next
	}
	b.hash, b.newer = nil, nil
}

// overlaps reports whether a page of [from, from+n) is pending.
func (t *pending) overlaps(from raid.PageNo, n uint64) bool {
	if t.n == 0 {
		return false
	}
	if n <= uint64(len(t.table)) {
		for p := from; p < from+raid.PageNo(n); p++ {
			if t.oldest(p) != nil {
				return true
			}
		}
		return false
	}
	for _, b := range t.table {
		for ; b != nil; b = b.hash {
			if b.page >= from && b.page-from < raid.PageNo(n) {
				return true
			}
		}
	}
	return false
}
