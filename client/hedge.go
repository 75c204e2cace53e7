package client

import (
	"time"

	"dmps/raid"
)

// Hedged reads: a second way is tried when the first takes longer than a little
// over the usual worst, within bounds.
const (
	hedgeLeast = 3 * time.Millisecond
	hedgeMost  = 50 * time.Millisecond
)

// hedgeBudget bounds the pages that are fetched a second way for nothing. When
// one server is slow or frozen the second way is the faster one, and there is no
// bound. When it is this machine that is busy, or the only link, the first way
// still comes first, and the second makes everything slower: then it is tried for
// one page in hedgeShare, after hedgeBurst pages. The zero value is full.
type hedgeBudget struct {
	debt int64 // in pages read, that have to come before it is full again
	seen int64 // pages read, at the last look
}

const (
	hedgeShare = 16
	hedgeBurst = 128
)

// take reports whether one more page may be fetched a second way; read counts
// the pages read so far.
func (b *hedgeBudget) take(read int64) bool {
	b.debt = max(b.debt-(read-b.seen), 0)
	b.seen = read
	if b.debt > (hedgeBurst-1)*hedgeShare {
		return false
	}
	b.debt += hedgeShare
	return true
}

// refund takes one back: the second way was the faster one, or was not tried.
func (b *hedgeBudget) refund() { b.debt = max(b.debt-hedgeShare, 0) }

// hedgeAfterLocked is the age from which a page-in gets a second way.
func (v *Volume) hedgeAfterLocked() int64 {
	d := v.mu.readLat.quantile(0.99) * 3 / 2
	return min(max(d, int64(hedgeLeast)), int64(hedgeMost))
}

// needsHedgeLocked reports whether a unit of q has no second way yet.
func (v *Volume) needsHedgeLocked(q *run) bool {
	for _, u := range q.units[:q.n] {
		if u != nil && !u.delivered && !u.hedged && v.stillThereLocked(u) {
			return true
		}
	}
	return false
}

// lateLocked appends to dst, as far as there is room, the oldest runs with p that
// are late and have no second way yet. Those that have one may stay in flight for
// as long as p does not answer, however many they are.
func (v *Volume) lateLocked(p *peer, dst []*run, now, after int64) []*run {
	p.mu.Lock()
	defer p.mu.Unlock()
	for x := p.mu.oldest; x != nil && now-x.start > after && len(dst) < cap(dst); x = x.next {
		if x.run != nil && v.needsHedgeLocked(x.run) {
			dst = append(dst, x.run)
		}
	}
	return dst
}

// hedge tries a second way for the units of late runs. The watch has seen some, in
// late, whose room is used.
func (v *Volume) hedge(p *peer, late []*run, now, after int64) {
	a := v.lock()
	r := router{v: v, a: a}
	for _, q := range v.lateLocked(p, late[:0], now, after) {
		x := q.x
		// The run may be over by now.
		if x == nil || x.peer != p || now-x.start <= after {
			continue
		}
		for _, u := range q.units[:q.n] {
			if u == nil || u.delivered || u.hedged || !v.stillThereLocked(u) {
				continue
			}
			if !v.mu.hedging.take(v.mu.count.readPages) {
				break
			}
			up := v.mu.log.Survivors(u.grp, u.idx) &^ u.avoid &^ (1 << q.col)
			if r.hedge(u, q.col, up); !u.hedged {
				v.mu.hedging.refund() // nobody can be asked
			}
		}
	}
	r.flush()
	v.unlock(a)
}

// hedge adds u to a rescue beside the transfer that is under way. For a mirror
// any column is as good as another; otherwise the one that is late is rebuilt.
func (r *router) hedge(u *unit, late raid.Col, up uint32) {
	if up == 0 {
		return
	}
	r.decode(u, up, true)
}
