package server

import (
	"bytes"
	"math/bits"

	"dmps/raid"
	"dmps/transport"
)

// rebuildRow is a row on its way: what was read of it, and what is wrong with
// that. It knows no network.
type rebuildRow struct {
	i    int // in the request
	spec transport.RebuildRow
	vol  uint32 // Site.Volume of every header
	done bool   // stored, or given up

	set uint32 // columns to make it from
	got uint32 // columns that were read and are sound by themselves
	bad uint32 // columns that were given up
	why transport.RebuildReason
	// whyCol is the column that why is about: the last that was given up.
	whyCol raid.Col

	// suspects are the columns that say something else than the slot that is
	// verified; then set is a column that is to decide.
	suspects uint32
	asked    uint32 // the columns that were compared, suspects among them

	used  uint32                             // buffers that hold columns, of the row's K
	at    [transport.MaxRebuildMembers]uint8 // column to buffer, where got or being read
	heads [transport.MaxRebuildMembers][]byte
	pages [transport.MaxRebuildMembers][]byte
	head  [transport.MaxRebuildMembers]raid.Header // where got
}

// begin makes w another row. What is by column counts only where got or being
// read, and is 2 KiB that need no clearing.
func (w *rebuildRow) begin(i int, spec transport.RebuildRow, v raid.VolumeID) {
	w.i, w.spec, w.vol, w.done = i, spec, uint32(v), false
	w.set, w.got, w.bad, w.why, w.whyCol, w.used, w.suspects, w.asked = 0, 0, 0, 0, 0, 0, 0, 0
}

// keep lets go of the buffers of all columns that are not in set.
func (w *rebuildRow) keep(set uint32) {
	w.got &= set
	w.used = 0
	for m := w.got; m != 0; m &= m - 1 {
		w.used |= 1 << w.at[bits.TrailingZeros32(m)]
	}
}

// place takes a buffer for a column. There is one: a set has at most K.
func (w *rebuildRow) place(col int) int {
	i := bits.TrailingZeros32(^w.used)
	w.used |= 1 << i
	w.at[col] = uint8(i)
	return i
}

// giveUp does without a column from now on.
func (w *rebuildRow) giveUp(col raid.Col, why transport.RebuildReason) {
	w.bad |= 1 << col
	w.got &^= 1 << col
	w.why, w.whyCol = why, col
}

// inspect judges a column that was read, by itself.
func (w *rebuildRow) inspect(g raid.Geometry, col raid.Col) {
	h, why := w.sound(g, col, w.heads[col], w.pages[col])
	if why != 0 {
		w.giveUp(col, why)
		return
	}
	w.got |= 1 << col
	w.head[col] = h
}

// sound judges a slot by itself: its header, which must be of this row, name
// this place and be of the column's kind, and its page, unless that is nil. 0:
// nothing is wrong. Of which group it is, agree asks.
func (w *rebuildRow) sound(g raid.Geometry, col raid.Col, head, page []byte) (raid.Header, transport.RebuildReason) {
	h, err := raid.ParseHeader(head)
	ok := err == nil && raid.TagOf(h.Seq) == w.spec.Tag && h.Filled == w.spec.Filled &&
		uint32(h.Index) == w.spec.Index && h.Volume == w.vol
	if !g.Mirror() && int(col) >= g.K {
		ok = ok && h.Kind == raid.KindParity
	} else {
		ok = ok && (h.Kind == raid.KindPage || h.Kind == raid.KindNotes)
	}
	switch {
	case !ok:
		return h, transport.RebuildHeader
	case page != nil && raid.Checksum(page) != h.CRC:
		return h, transport.RebuildChecksum
	}
	return h, 0
}

// agree reports whether the columns of w.set belong to one row, by their
// headers. If not, it gives up those that differ from most of the others; of
// as many on both sides, from the preferred one.
func (w *rebuildRow) agree(g raid.Geometry, sources []*pullSource) bool {
	same := func(a, b raid.Col) bool {
		x, y := &w.head[a], &w.head[b]
		return x.SameRow(y) && w.sameTable(g, a, b)
	}
	best, most := raid.Col(0), -1
	for _, o := range sources {
		if w.set>>o.col&1 == 0 {
			continue
		}
		n := 0
		for m := w.set; m != 0; m &= m - 1 {
			if same(o.col, raid.Col(bits.TrailingZeros32(m))) {
				n++
			}
		}
		if n > most {
			best, most = o.col, n
		}
	}
	all := true
	for m := w.set; m != 0; m &= m - 1 {
		if col := raid.Col(bits.TrailingZeros32(m)); !same(best, col) {
			w.giveUp(col, transport.RebuildHeader)
			all = false
		}
	}
	if !all {
		return false
	}
	// Two data columns say nothing of each other: a parity member's table does.
	if p, ok := w.table(g); ok {
		for m := w.set; m != 0; m &= m - 1 {
			if col := raid.Col(bits.TrailingZeros32(m)); !same(p, col) {
				w.giveUp(col, transport.RebuildHeader)
				all = false
			}
		}
	}
	return all
}

// sameTable reports whether what two columns say of the row's pages is the same.
func (w *rebuildRow) sameTable(g raid.Geometry, a, b raid.Col) bool {
	if g.Mirror() {
		return a == b || bytes.Equal(w.heads[a], w.heads[b])
	}
	k := raid.Col(g.K)
	switch {
	case a >= k && b >= k:
		return bytes.Equal(w.heads[a][raid.HeaderSize:], w.heads[b][raid.HeaderSize:])
	case a >= k:
		return raid.ParseRowEntry(w.heads[a], int(b)) == w.entry(b)
	case b >= k:
		return raid.ParseRowEntry(w.heads[b], int(a)) == w.entry(a)
	}
	return true
}

// entry is what a data column's own header says for the table.
func (w *rebuildRow) entry(col raid.Col) raid.RowEntry {
	h := &w.head[col]
	return raid.RowEntry{Page: h.Page, CRC: h.CRC, Kind: h.Kind}
}

// table is a parity column of w.set, which has the row's table.
func (w *rebuildRow) table(g raid.Geometry) (raid.Col, bool) {
	if p := w.set >> g.K; p != 0 && !g.Mirror() {
		return raid.Col(g.K + bits.TrailingZeros32(p)), true
	}
	return 0, false
}

// decode makes the header and the page of the target's column from those in
// w.set, or gives up a column and returns nil. The memory is good until the
// next decode.
func (b *rebuildBatch) decode(w *rebuildRow) (head, page []byte) {
	g := b.r.geo
	if own := b.r.spec.Col; w.set == 1<<own {
		return w.heads[own], w.pages[own] // a copy of the same slot
	}
	if !w.agree(g, b.r.sources) {
		return nil, nil
	}
	any := raid.Col(bits.TrailingZeros32(w.set))
	if g.Mirror() {
		return w.heads[any], w.pages[any] // a copy, header and all
	}
	var table [raid.MaxData]raid.RowEntry
	from, hasTable := w.table(g)
	for d := range g.K {
		switch {
		case hasTable:
			table[d] = raid.ParseRowEntry(w.heads[from], d)
		case w.spec.Filled>>d&1 != 0: // without parity, all data is here
			table[d] = w.entry(raid.Col(d))
		}
	}
	pool := b.r.session.s.pool
	clear(b.shards)
	for m := w.set; m != 0; m &= m - 1 {
		col := bits.TrailingZeros32(m)
		b.shards[col] = w.pages[col]
	}
	want := int(b.r.spec.Col)
	page = pool.page(b.spare[0])
	missing := uint32(w.spec.Filled) &^ w.set
	if want < g.K {
		b.shards[want] = page // it is one of the missing
	}
	n := 1
	for m := missing; m != 0; m &= m - 1 {
		if col := bits.TrailingZeros32(m); col != want {
			b.shards[col] = pool.page(b.spare[n])
			n++
		}
	}
	if want < g.K {
		missing = 1 << want // the others are not needed
	}
	// It cannot fail: choose asked the coder. The checksums are what decides.
	if err := b.r.coder.ReconstructSet(b.shards, w.set, w.spec.Filled, missing); err != nil {
		b.distrust(w)
		return nil, nil
	}
	for m := missing; m != 0; m &= m - 1 {
		col := bits.TrailingZeros32(m)
		if raid.Checksum(b.shards[col]) != table[col].CRC {
			b.distrust(w)
			return nil, nil
		}
	}
	h := w.head[any]
	h.Fill = 0
	if want < g.K {
		h.Kind, h.Page, h.CRC = table[want].Kind, table[want].Page, table[want].CRC
		head = b.head[:raid.HeaderSize]
		h.Put(head, nil)
		return head, page
	}
	clear(b.parity)
	b.parity[want-g.K] = page
	b.r.coder.EncodeRow(b.shards[:g.K], b.parity)
	h.Kind, h.Page, h.CRC = raid.KindParity, 0, raid.Checksum(page)
	head = b.head[:raid.HeaderBytes(g, raid.Col(want))]
	h.Put(head, table[:g.K])
	return head, page
}

// distrust gives up the source in w.set that is preferred least: each is sound
// by itself, but together they give something else than they say. That is a
// guess, not a verdict: a row that is verified is left undecided.
func (b *rebuildBatch) distrust(w *rebuildRow) {
	if b.r.spec.Verify {
		b.fail(w, transport.RebuildTooFew, raid.Col(b.r.spec.Col))
		return
	}
	for i := len(b.r.sources) - 1; i >= 0; i-- {
		if col := b.r.sources[i].col; w.set>>col&1 != 0 {
			w.giveUp(col, transport.RebuildChecksum)
			return
		}
	}
}
