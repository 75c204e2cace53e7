package client

import (
	"math/rand/v2"
	"testing"

	"dmps/raid"
)

// What a page-in is checked for, one thing at a time: a header that is sound by
// itself, but is another's, and a page that is not the header's.
func TestPageInIsVerified(t *testing.T) {
	f := newFakeNet(3)
	v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 100))
	defer closeTest(t, v)
	u := &unit{page: 7, grp: 0, idx: 5, kind: raid.KindPage, tag: raid.TagOf(1000)}
	for name, c := range map[string]struct {
		change func(h *raid.Header)
		flip   bool // a bit of the page
		want   bool
	}{
		"as it was written": {want: true},
		"another kind":      {change: func(h *raid.Header) { h.Kind = raid.KindNotes }},
		"another batch":     {change: func(h *raid.Header) { h.Seq++ }},
		"another page":      {change: func(h *raid.Header) { h.Page++ }},
		"another row":       {change: func(h *raid.Header) { h.Index++ }},
		"another group":     {change: func(h *raid.Header) { h.Group++ }},
		"another volume":    {change: func(h *raid.Header) { h.Volume++ }},
		"another content":   {flip: true},
	} {
		page := randomBytes(rand.New(rand.NewPCG(1, 1)), raid.PageSize)
		h := raid.Header{Kind: raid.KindPage, Filled: 1, Members: 7, Page: 7, Seq: 1000, CRC: raid.Checksum(page), Site: v.site(0, 5)}
		if c.change != nil {
			c.change(&h)
		}
		if c.flip {
			page[100] ^= 1
		}
		header := make([]byte, raid.HeaderSize)
		h.Put(header, nil)
		if v.verify(u, header, page) != c.want {
			t.Errorf("%s: verified %v", name, !c.want)
		}
	}
}

// The same where pages stay in place: what was never written reads as zeros.
func TestPageInIsVerifiedInPlace(t *testing.T) {
	f := newFakeNet(1)
	v := openTest(t, f, f.layout(raid.LayoutLinear, raid.Geometry{K: 1}, 64, 1, 100))
	defer closeTest(t, v)
	u := &unit{page: 7, grp: 0, idx: 5, kind: raid.KindPage}
	for name, c := range map[string]struct {
		change func(h *raid.Header)
		flip   bool
		want   bool
	}{
		"as it was written": {want: true},
		"another kind":      {change: func(h *raid.Header) { h.Kind = raid.KindParity }},
		"another page":      {change: func(h *raid.Header) { h.Page++ }},
		"another row":       {change: func(h *raid.Header) { h.Index++ }},
		"another content":   {flip: true},
	} {
		page := randomBytes(rand.New(rand.NewPCG(1, 1)), raid.PageSize)
		h := raid.Header{Kind: raid.KindPage, Filled: 1, Members: 1, Page: 7, Seq: 1000, CRC: raid.Checksum(page), Site: v.site(0, 5)}
		if c.change != nil {
			c.change(&h)
		}
		if c.flip {
			page[100] ^= 1
		}
		header := make([]byte, raid.HeaderSize)
		h.Put(header, nil)
		if v.verify(u, header, page) != c.want {
			t.Errorf("%s: verified %v", name, !c.want)
		}
	}
}

// rescued is a rescue of page 0 of a volume from the four other members of its
// row, with what the servers hold.
func rescued(t *testing.T, f *fakeNet, v *Volume) *rescue {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	slot := v.mu.log.Lookup(0).Slot
	at := v.mu.log.Place(slot)
	u := &unit{page: 0, slot: slot, grp: at.Group, idx: at.Index, tag: at.Tag, kind: raid.KindPage}
	q := newRescue(nil)
	q.grp, q.want, q.filled, q.n = at.Group, at.Col, v.mu.log.FilledCols(at.Group, at.Index), 1
	q.units[0], q.dst[0] = u, &Buf{Page: make([]byte, raid.PageSize)}
	up := v.mu.log.Survivors(at.Group, at.Index) &^ (1 << at.Col)
	for c := range raid.Col(v.geo.Members()) {
		if up&(1<<c) == 0 || popcount(q.sources) == v.geo.K {
			continue
		}
		q.sources |= 1 << c
		m := v.layout.Groups[at.Group].Members[c]
		ch := f.servers[string(m.Server)].chunks[uint64(m.Chunk)]
		b := &Buf{Page: make([]byte, raid.PageSize), hdr: make([]byte, raid.MaxHeaderSize)}
		size := raid.HeaderBytes(v.geo, c)
		copy(b.hdr[:size], ch.hdrs[int(at.Index)*size:])
		copy(b.Page, ch.pages[int(at.Index)*raid.PageSize:])
		q.src = append(q.src, b)
	}
	return q
}

// source is the place among q.src of column c.
func (q *rescue) source(c raid.Col) *Buf { return q.src[popcount(q.sources&(1<<c-1))] }

// rewrite changes the header, and the table, of source c.
func (q *rescue) rewrite(t *testing.T, g raid.Geometry, c raid.Col, change func(h *raid.Header, table []raid.RowEntry)) {
	t.Helper()
	hb := q.source(c).hdr[:raid.HeaderBytes(g, c)]
	h, err := raid.ParseHeader(hb)
	if err != nil {
		t.Fatal(err)
	}
	var table []raid.RowEntry
	if int(c) >= g.K {
		for d := range g.K {
			table = append(table, raid.ParseRowEntry(hb, d))
		}
	}
	change(&h, table)
	h.Put(hb, table)
}

// What the sources of a rebuilt page are checked for, one thing at a time, and
// what is concluded: a slot that is bad is missed; one that only contradicts others
// is asked no more.
func TestSourcesAreVerified(t *testing.T) {
	g := raid.Geometry{K: 4, M: 2}
	f := newFakeNet(6)
	v := openTest(t, f, f.layout(raid.LayoutLog, g, 64, 1, 100))
	defer closeTest(t, v)
	if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, 4)), 64*raid.PageSize), 0); err != nil {
		t.Fatal(err)
	}
	all := rescued(t, f, v).sources
	lone := raid.Col(2) // a data column
	const parity = raid.Col(4)
	if all&(1<<lone) == 0 || all&(1<<parity) == 0 || all&(1<<5) != 0 {
		t.Fatalf("sources %b", all)
	}
	for name, c := range map[string]struct {
		damage func(q *rescue)
		good   bool
		bad    uint32
		odd    uint32
	}{
		"sound": {damage: func(*rescue) {}, good: true},
		"another batch": {bad: 1 << lone, damage: func(q *rescue) {
			q.rewrite(t, g, lone, func(h *raid.Header, _ []raid.RowEntry) { h.Seq++ })
		}},
		"another row": {bad: 1 << lone, damage: func(q *rescue) {
			q.rewrite(t, g, lone, func(h *raid.Header, _ []raid.RowEntry) { h.Index++ })
		}},
		"another kind": {bad: 1 << parity, damage: func(q *rescue) {
			q.rewrite(t, g, parity, func(h *raid.Header, _ []raid.RowEntry) { h.Kind = raid.KindPage })
		}},
		"another content": {bad: 1 << lone, damage: func(q *rescue) { q.source(lone).Page[9] ^= 1 }},
		"another content, whose checksum fits": {odd: all, damage: func(q *rescue) {
			b := q.source(lone)
			b.Page[9] ^= 1
			q.rewrite(t, g, lone, func(h *raid.Header, _ []raid.RowEntry) { h.CRC = raid.Checksum(b.Page) })
			q.rewrite(t, g, parity, func(_ *raid.Header, table []raid.RowEntry) { table[lone].CRC = raid.Checksum(b.Page) })
		}},
		"another page": {odd: all, damage: func(q *rescue) {
			q.rewrite(t, g, parity, func(_ *raid.Header, table []raid.RowEntry) { table[q.want].Page++ })
		}},
		"another kind of page": {odd: all, damage: func(q *rescue) {
			q.rewrite(t, g, parity, func(_ *raid.Header, table []raid.RowEntry) { table[q.want].Kind = raid.KindNotes })
		}},
		"members that the others do not name": {odd: 1 << lone, damage: func(q *rescue) {
			q.rewrite(t, g, lone, func(h *raid.Header, _ []raid.RowEntry) { h.Members &^= 1 })
		}},
	} {
		q := rescued(t, f, v)
		c.damage(q)
		v.rebuild(q, 0)
		if q.good != 0 != c.good || q.bad[0] != c.bad || q.odd[0] != c.odd {
			t.Errorf("%s: good %v bad %b odd %b, want %v %b %b", name, q.good != 0, q.bad[0], q.odd[0], c.good, c.bad, c.odd)
		}
	}
}

// Two parity members that are sound by themselves have to have the same table.
func TestTablesAreCompared(t *testing.T) {
	g := raid.Geometry{K: 3, M: 2}
	for _, other := range []bool{false, true} {
		q := newRescue(nil)
		for c := raid.Col(3); c < 5; c++ {
			table := make([]raid.RowEntry, g.K)
			for d := range table {
				table[d] = raid.RowEntry{Page: raid.PageNo(d), Kind: raid.KindPage}
			}
			if other && c == 4 {
				table[0].Page = 77
			}
			q.heads[c] = raid.Header{Kind: raid.KindParity, Filled: 7, Members: 31, Seq: 9}
			q.raw[c] = make([]byte, raid.HeaderBytes(g, c))
			q.heads[c].Put(q.raw[c], table)
		}
		if odd := q.contradictions(g, 1<<3|1<<4); odd != 0 != other {
			t.Errorf("tables differ %v: odd are %b", other, odd)
		}
	}
}
