package client

import (
	"errors"
	"fmt"
	"math/bits"

	"dmps/raid"
)

var errMoved = errors.New("the slot holds nothing any more")

// rescue fetches up to 32 pages of one column from the other members of their
// rows, which lie in one group, were filled alike and have the same members.
type rescue struct {
	grp     raid.GroupID
	want    raid.Col
	up      uint32 // members to choose from
	sources uint32 // members that are read
	filled  uint16
	hedge   bool // a first way is still under way: the units' own buffers are in use
	epoch   uint8

	n     int
	units [raid.MaxBatchPages]*unit
	dst   [raid.MaxBatchPages]*Buf
	src   []*Buf // sources x n, by source

	left   int
	err    error
	bad    [raid.MaxBatchPages]uint32                  // members that gave something wrong, by unit
	from   [raid.MaxData + raid.MaxParity]raid.ChunkID // where they were read
	good   uint32                                      // units that were rebuilt
	odd    [raid.MaxBatchPages]uint32                  // members that contradict each other, by unit; sound by themselves
	shards [raid.MaxData + raid.MaxParity][]byte
	heads  [raid.MaxData + raid.MaxParity]raid.Header // of the page that is being rebuilt
	raw    [raid.MaxData + raid.MaxParity][]byte      // likewise, with the table
	next   *rescue
}

// decode adds u, whose own member cannot be read, to the current rescue.
func (r *router) decode(u *unit, up uint32, hedge bool) {
	v := r.v
	col := v.mu.log.Place(u.slot).Col
	filled := v.mu.log.FilledCols(u.grp, u.idx)
	if !v.geo.Mirror() { // there any member is as good as another
		up &^= 1 << col
		if hedge {
			up &^= u.shelf.odd
		} else if set, ok := v.sourcesOf(u, up, filled); ok {
			up = set
		} else {
			v.exhaustedLocked(u, r.a)
			return
		}
	}
	q := r.rescue
	if q == nil || q.n == raid.MaxBatchPages || q.grp != u.grp || q.want != col || q.up != up || q.filled != filled || q.hedge != hedge {
		r.flushRescue()
		sources, err := v.sources(up, filled, col)
		if err != nil {
			if !hedge {
				v.stallLocked(u, r.a)
			}
			return
		}
		q = v.newRescueLocked()
		q.grp, q.want, q.up, q.sources, q.filled, q.hedge = u.grp, col, up, sources, filled, hedge
		r.rescue = q
	}
	q.units[q.n] = u
	q.n++
	u.refs++
	u.hedged = hedge
}

// sources chooses whom to read.
func (v *Volume) sources(up uint32, filled uint16, want raid.Col) (uint32, error) {
	if v.geo.Mirror() {
		if up == 0 {
			return 0, ErrLost
		}
		return 1 << pick(up, 0), nil
	}
	return v.coder.Sources(up, filled, want)
}

func newRescue(next *rescue) *rescue {
	// Room for what is read and, for a hedge, for what is rebuilt.
	return &rescue{src: make([]*Buf, 0, (raid.MaxData+1)*raid.MaxBatchPages), next: next}
}

func (v *Volume) newRescueLocked() *rescue {
	q := v.mu.freeRescue
	if q == nil {
		q = newRescue(nil)
	} else {
		v.mu.freeRescue = q.next
	}
	q.next, q.n, q.left, q.err, q.good = nil, 0, 0, nil, 0
	q.src = q.src[:0]
	clear(q.bad[:])
	clear(q.odd[:])
	q.epoch = v.mu.epoch
	v.mu.reading[q.epoch]++
	return q
}

func (r *router) flushRescue() {
	if q := r.rescue; q != nil {
		r.rescue = nil
		r.v.sendRescueLocked(q, r.a)
	}
}

// sendRescueLocked gets buffers for q and starts it, or lets it wait for
// buffers; a hedge is dropped instead. The members of q were looked at under the
// same hold of the lock.
func (v *Volume) sendRescueLocked(q *rescue, a *after) {
	n := q.needs()
	if q.hedge && v.scratch.available()-n < v.scratch.size/2 {
		// Its buffers go to front ends, who may keep them for as long as they like.
		v.dropRescueLocked(q, a)
		return
	}
	bufs, ok := v.scratch.tryGet(n, q.src[:0])
	if !ok {
		v.mu.rescues.push(q)
		return
	}
	if q.hedge {
		copy(q.dst[:q.n], bufs[n-q.n:])
		bufs = bufs[:n-q.n]
		v.mu.count.hedges += int64(q.n)
	} else {
		for i, u := range q.units[:q.n] {
			q.dst[i] = u.buf
		}
		v.mu.count.degradedReads += int64(q.n)
	}
	q.src = bufs
	q.left = popcount(q.sources)
	k := 0
	for c := range raid.Col(v.geo.Members()) {
		if q.sources&(1<<c) == 0 {
			continue
		}
		m := v.member(q.grp, c)
		x := v.xfers.get()
		x.rescue, x.col = q, c
		x.req.Op = opRead
		x.req.Chunk = uint64(m.chunk)
		q.from[c] = m.chunk
		size := raid.HeaderBytes(v.geo, c)
		for i, u := range q.units[:q.n] {
			b := q.src[k*q.n+i]
			x.add(u.idx, b.hdr[:size], b.Page)
		}
		k++
		m.peer.send(x)
	}
}

// retryRescuesLocked starts rescues that waited for buffers, in their order, for
// as long as there are some. Their sources may have left meanwhile, or their pages
// may be elsewhere: each unit is routed anew.
func (v *Volume) retryRescuesLocked(a *after) {
	for q := v.mu.rescues.head; q != nil && v.scratch.available() >= q.needs(); q = v.mu.rescues.head {
		v.mu.rescues.pop()
		units, n := q.units, q.n
		for i, u := range units[:n] {
			q.units[i] = nil
			u.refs--
		}
		v.freeRescueLocked(q)
		r := router{v: v, a: a}
		for _, u := range units[:n] {
			v.againLocked(&r, u)
		}
		r.flush()
	}
}

// needs is how many buffers q takes: one a source and page, and for a hedge what
// the pages are rebuilt into.
func (q *rescue) needs() int {
	n := popcount(q.sources) * q.n
	if q.hedge {
		n += q.n
	}
	return n
}

// rescueList is a first-in-first-out list through rescue.next.
type rescueList struct{ head, tail *rescue }

func (l *rescueList) push(q *rescue) {
	q.next = nil
	if l.tail == nil {
		l.head = q
	} else {
		l.tail.next = q
	}
	l.tail = q
}

func (l *rescueList) pop() *rescue {
	q := l.head
	if l.head = q.next; l.head == nil {
		l.tail = nil
	}
	q.next = nil
	return q
}

// dropRescueLocked gives up a hedge that was not started.
func (v *Volume) dropRescueLocked(q *rescue, a *after) {
	for i, u := range q.units[:q.n] {
		q.units[i] = nil
		u.refs--
		u.hedged = false
		v.mu.hedging.refund()
		v.settleLocked(u)
	}
	v.freeRescueLocked(q)
}

func (v *Volume) freeRescueLocked(q *rescue) {
	v.mu.reading[q.epoch]--
	clear(q.dst[:])
	q.next = v.mu.freeRescue
	v.mu.freeRescue = q
}

// rescuePart takes a source's answer; the last one rebuilds the pages.
func (v *Volume) rescuePart(x *xfer) {
	q := x.rescue
	a := v.lock()
	if x.req.Err != nil {
		q.err = fmt.Errorf("reading member %d of group %d: %w", x.col, q.grp, x.req.Err)
	}
	q.left--
	last := q.left == 0
	v.xfers.put(x)
	v.unlock(a)
	if !last {
		return
	}
	if q.err == nil {
		for i := range q.n {
			v.rebuild(q, i)
		}
	}
	a = v.lock()
	v.rescueDoneLocked(q, a)
	v.advanceLocked()
	v.unlock(a)
}

// rebuild makes page i of q from its sources. No lock: only the last source's
// goroutine gets here.
func (v *Volume) rebuild(q *rescue, i int) {
	u := q.units[i]
	var entry raid.RowEntry
	known := false
	k := 0
	for c := range raid.Col(v.geo.Members()) {
		if q.sources&(1<<c) == 0 {
			continue
		}
		b := q.src[k*q.n+i]
		k++
		q.shards[c] = b.Page
		hb := b.hdr[:raid.HeaderBytes(v.geo, c)]
		h, err := raid.ParseHeader(hb)
		if err != nil || raid.TagOf(h.Seq) != u.tag || h.Site != v.site(u.grp, u.idx) || raid.Checksum(b.Page) != h.CRC || !v.kindFits(h.Kind, c) {
			q.bad[i] |= 1 << c
			continue
		}
		q.heads[c], q.raw[c] = h, hb
		switch {
		case v.geo.Mirror():
			entry, known = raid.RowEntry{Page: h.Page, CRC: h.CRC, Kind: h.Kind}, true
		case h.Kind == raid.KindParity:
			entry, known = raid.ParseRowEntry(hb, int(q.want)), true
		}
	}
	if q.bad[i] != 0 || !known {
		return
	}
	if !v.geo.Mirror() {
		if q.odd[i] = q.contradictions(v.geo, q.sources); q.odd[i] != 0 {
			return
		}
	}
	dst := q.dst[i].Page
	if v.geo.Mirror() {
		for c := range q.shards {
			if q.sources&(1<<c) != 0 {
				copy(dst, q.shards[c])
			}
		}
	} else if err := v.coder.Reconstruct(q.shards[:v.geo.Members()], q.sources, q.filled, q.want, dst); err != nil {
		return
	}
	if entry.Kind == u.kind && (entry.Kind == raid.KindNotes || entry.Page == u.page) && raid.Checksum(dst) == entry.CRC {
		q.good |= 1 << i
		return
	}
	q.odd[i] = q.sources // any of them may be the one
}

// kindFits reports whether a slot of column c of a row in use can be of a kind.
func (v *Volume) kindFits(k raid.HeaderKind, c raid.Col) bool {
	if !v.geo.Mirror() && int(c) >= v.geo.K {
		return k == raid.KindParity
	}
	return k == raid.KindPage || k == raid.KindNotes
}

// rescueDoneLocked answers what could be rebuilt and looks further for the
// rest.
func (v *Volume) rescueDoneLocked(q *rescue, a *after) {
	r := router{v: v, a: a}
	a.free = append(a.free, q.src...)
	for i, u := range q.units[:q.n] {
		q.units[i] = nil
		u.refs--
		for bad := q.bad[i]; bad != 0; bad &= bad - 1 {
			if c := raid.Col(bits.TrailingZeros32(bad)); v.member(q.grp, c).chunk == q.from[c] { // else it has left
				v.badLocked(u, c)
			}
		}
		switch {
		case u.delivered:
			if q.hedge {
				a.free = append(a.free, q.dst[i])
			}
			v.settleLocked(u)
		case q.good&(1<<i) != 0:
			if !q.hedge {
				v.deliverLocked(u, u.buf, a)
				break
			}
			v.mu.count.hedgeWins++
			v.mu.hedging.refund()
			mine := u.buf // still the first way's, if that has not ended
			v.deliverLocked(u, q.dst[i], a)
			if u.refs == 0 && mine != nil {
				a.free = append(a.free, mine)
			}
		default:
			if q.hedge {
				a.free = append(a.free, q.dst[i])
			}
			u.hedged = false
			if q.odd[i] != 0 && v.stillThereLocked(u) {
				v.contradictedLocked(u, q.odd[i])
			} else {
				u.tries++
			}
			if u.refs == 0 {
				v.againLocked(&r, u)
			}
		}
	}
	v.freeRescueLocked(q)
	r.flush()
}
