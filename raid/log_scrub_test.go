package raid

import "testing"

// Which slots of free rows could keep a recovery from opening.
func TestHinders(t *testing.T) {
	at := Site{Volume: 1, Group: 2, Index: 7}
	erased := func(at Site) []byte {
		b := make([]byte, HeaderSize)
		PutErased(b, at, 9)
		return b
	}
	page := func(kind HeaderKind, at Site) []byte { return encode(Header{Kind: kind, Seq: 9, Site: at}, nil) }
	damaged := page(KindPage, at)
	damaged[9] ^= 1
	other := Site{Volume: 1, Group: 2, Index: 8}
	for name, c := range map[string]struct {
		b    []byte
		want bool
	}{
		"erased":                   {erased(at), false},
		"a dead page":              {page(KindPage, at), false},
		"dead parity":              {encode(Header{Kind: KindParity, Seq: 9, Site: at}, make([]RowEntry, 2)), false},
		"dead notes":               {page(KindNotes, at), true},
		"a record of a view":       {page(KindView, at), true},
		"a page of another row":    {page(KindPage, other), true},
		"erased as another row":    {erased(other), true},
		"damaged":                  {damaged, true},
		"lost":                     {make([]byte, HeaderSize), true},
		"lost, in the first place": {make([]byte, HeaderSize), true},
	} {
		site := at
		if name == "lost, in the first place" {
			site = Site{}
		}
		if got := Hinders(c.b, site); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A scrub has only free rows erased.
func TestDoomFree(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	p := put(t, l, 0, 2)
	if l.Free(0, p.Index[0]) || l.DoomFree(0, p.Index[0]) || l.Doomed() != 0 {
		t.Error("a row in use is to be erased")
	}
	free := p.Index[0] + 1
	if !l.Free(0, free) || !l.DoomFree(0, free) || l.Doomed() != 1 {
		t.Error("a free row is not to be erased")
	}
	if l.Free(0, free) || l.DoomFree(0, free) || l.Doomed() != 1 {
		t.Error("a row that is to be erased is taken for a free one")
	}
	if err := l.Check(0); err != nil {
		t.Error(err)
	}
}

// A member that has lost the record in force is given it again, and no other.
func TestLostRecordsOfViews(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 2}, 15)
	r := &l.groups[0].view
	record := func(change func(h *Header)) []byte {
		h := l.ViewHeader(&View{Index: r.slot, Seq: r.seq, Settled: r.settled, Members: r.members, Whole: r.whole})
		change(&h)
		return encode(h, nil)
	}
	damaged := record(func(*Header) {})
	damaged[9] ^= 1
	for name, c := range map[string]struct {
		b     []byte
		other bool // in the other view row
		taken bool // while another is on its way
		lacks bool // the member is known not to have it
		older bool // it was made by an earlier client
		want  bool
	}{
		"as it should be":                        {b: record(func(*Header) {})},
		"a newer one":                            {b: record(func(h *Header) { h.Seq++ })},
		"an older one":                           {b: record(func(h *Header) { h.Seq-- }), want: true},
		"of another place":                       {b: record(func(h *Header) { h.Group++ }), want: true},
		"erased":                                 {b: made(Geometry{K: 2, M: 2}, 0, l.Site(0, r.slot)), want: true},
		"erased above it":                        {b: func() []byte { b := make([]byte, HeaderSize); PutErased(b, l.Site(0, r.slot), r.seq+1); return b }(), want: true},
		"zeros":                                  {b: make([]byte, HeaderSize), want: true},
		"damaged":                                {b: damaged, want: true},
		"damaged, the other row":                 {b: damaged, other: true},
		"damaged, and another one is on its way": {b: damaged, taken: true},
		"damaged, as is known":                   {b: damaged, lacks: true},
		"damaged, of an earlier client":          {b: damaged, older: true},
	} {
		was := *r
		i := r.slot
		if c.other {
			i ^= 1
		}
		r.taken, r.own = c.taken, !c.older
		if c.lacks {
			r.copies &^= 1
		}
		l.viewDue = false
		if got := l.ViewLost(0, 0, i, c.b); got != c.want || l.viewDue != c.want || (r.copies&1 == 0) != (c.want || c.lacks) {
			t.Errorf("%s: lost %v, a record is due %v, held by %b", name, got, l.viewDue, r.copies)
		}
		*r = was
	}
	var v View
	if !l.ViewLost(0, 2, r.slot, damaged) || l.InView(0, 2) || !l.TakeView(&v) || v.To != 0b0100 || v.Seq != r.seq || v.Index != r.slot {
		t.Errorf("%+v, not the record in force for member 2", v)
	}
	if l.ViewLost(0, 3, r.slot, damaged) {
		t.Error("lost while it is on its way")
	}
	l.Installed(&v, v.To, 0)
	if !l.InView(0, 2) {
		t.Error("member 2 has the record again and is not in the view")
	}
}
