package server

import (
	"bytes"
	"context"
	"math/bits"
	"runtime"

	"dmps/raid"
	"dmps/transport"
)

// A verification is a rebuild that stores nothing.
//
//  1. verifyOwn judges the target's slots by themselves. For data columns, and
//     without sources, that is all.
//  2. plan, pull, inspect and decode make what a parity slot should be, as to
//     fill it. Of a mirror the header of one other copy is enough: it has the
//     page's checksum.
//  3. verify compares. When they differ, a column that was not asked yet and
//     has the same in its header is the witness that says which side is wrong.

// local reports whether nothing is pulled.
func (r *rebuild) local() bool {
	return r.spec.Verify && (len(r.sources) == 0 || !r.geo.Mirror() && int(r.spec.Col) < r.geo.K)
}

// verifyOwn judges the slots of a batch by themselves, at the pace of what is
// pulled: it costs memory bandwidth and time that pages may need.
func (b *rebuildBatch) verifyOwn(ctx context.Context) error {
	s := b.r.session
	n := len(b.rows) * (raid.PageSize + int(b.r.target.spec.HeaderBytes))
	if _, err := b.r.pace.Take(ctx, int64(n)); err != nil {
		return err
	}
	if _, err := s.s.pace.Take(ctx, int64(n)); err != nil {
		return err
	}
	if err := s.alive(); err != nil {
		return err
	}
	col := raid.Col(b.r.spec.Col)
	for i := range b.rows {
		w := &b.rows[i]
		var why transport.RebuildReason
		b.r.target.view(w.spec.Index, func(head, page []byte) { _, why = w.sound(b.r.geo, col, head, page) })
		if why != 0 {
			b.fail(w, why, col)
		}
		w.done = why != 0 || b.r.local()
	}
	s.s.n.verified.Add(uint64(len(b.rows)))
	s.s.n.checked.Add(uint64(n))
	b.r.checked.Add(uint64(n))
	runtime.Gosched() // whoever has a page to serve goes first
	return ctx.Err()
}

// headerOnly reports whether what is pulled of w is headers without pages.
func (b *rebuildBatch) headerOnly(w *rebuildRow) bool {
	return b.r.spec.Verify && (b.r.geo.Mirror() || w.suspects != 0)
}

// verify compares the target's slot with what w.set says of it.
func (b *rebuildBatch) verify(w *rebuildRow) {
	own := raid.Col(b.r.spec.Col)
	if w.suspects != 0 {
		if b.witnessed(w) {
			b.fail(w, transport.RebuildMismatch, raid.Col(bits.TrailingZeros32(w.suspects)))
			return
		}
		b.fail(w, transport.RebuildMismatch, own)
		return
	}
	var head, page []byte
	if b.r.geo.Mirror() {
		head = w.heads[bits.TrailingZeros32(w.set)]
	} else if head, page = b.decode(w); page == nil {
		return // a source was given up: planned anew
	}
	same := false
	b.r.target.view(w.spec.Index, func(h, p []byte) {
		same = bytes.Equal(h, head) && (page == nil || bytes.Equal(p, page))
		if !same {
			w.suspects = b.differing(w, h, head)
		}
	})
	switch {
	case same && w.why != 0:
		// This slot is right, but a source on the way to it was not.
		b.fail(w, w.why, w.whyCol)
	case same:
		w.done = true
	case w.suspects == 0:
		b.fail(w, transport.RebuildMismatch, own)
	default:
		w.asked = w.set
	}
}

// differing is the columns of w.set that say something else of the row than
// own, the header that is verified, where it is not plain that own is wrong.
// made is what they say together.
func (b *rebuildBatch) differing(w *rebuildRow, own, made []byte) uint32 {
	g := b.r.geo
	if g.Mirror() {
		return w.set // one against one
	}
	if _, ok := w.table(g); ok {
		return 0 // another parity and the data that it describes against own
	}
	x, err := raid.ParseHeader(own)
	y, err2 := raid.ParseHeader(made)
	if err != nil || err2 != nil || !x.SameRow(&y) {
		return 0 // all data against own
	}
	var set uint32
	for d := range g.K {
		if raid.ParseRowEntry(own, d) != raid.ParseRowEntry(made, d) {
			set |= 1 << d
		}
	}
	return set // none: own is the parity of something else
}

// chooseWitness sets w.set to a column that says of the whole row what own and
// the columns asked do not agree on.
func (b *rebuildBatch) chooseWitness(w *rebuildRow, use uint32) bool {
	for _, o := range b.r.sources {
		bit := uint32(1) << o.col
		if w.spec.Have&use&^w.bad&^w.asked&bit != 0 && (b.r.geo.Mirror() || int(o.col) >= b.r.geo.K) {
			w.set = bit
			w.keep(bit)
			return true
		}
	}
	return false
}

// witnessed reports whether the witness says the same as the slot that is
// verified.
func (b *rebuildBatch) witnessed(w *rebuildRow) bool {
	witness := w.heads[bits.TrailingZeros32(w.set)]
	same := false
	b.r.target.view(w.spec.Index, func(own, _ []byte) {
		if b.r.geo.Mirror() {
			same = bytes.Equal(own, witness)
			return
		}
		x, err := raid.ParseHeader(own)
		y, err2 := raid.ParseHeader(witness)
		same = err == nil && err2 == nil && x.SameRow(&y) &&
			bytes.Equal(own[raid.HeaderSize:], witness[raid.HeaderSize:])
	})
	return same
}
