package raid

import "testing"

// What headers say is settled stops below the oldest batch that is on its way, or
// that was given up and is not erased everywhere yet.
func TestSettledIsBelowWhatIsNot(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	var a, b, c Placement
	for _, p := range []*Placement{&a, &b, &c} {
		if !l.Reserve(2, false, p) {
			t.Fatal("no rows")
		}
	}
	if b.Settled >= a.Seq || c.Settled >= a.Seq {
		t.Errorf("batch %d is on its way, and %d and %d are settled", a.Seq, b.Settled, c.Settled)
	}
	l.Commit(&b, items(&b, 0), 7)
	l.Abandon(&a)
	if l.Sure() {
		t.Error("nothing can come back, although a batch was given up and is not erased")
	}
	var d, e Placement
	if !l.Reserve(2, false, &d) || d.Settled >= a.Seq {
		t.Errorf("batch %d was given up and is not erased, and %d is settled", a.Seq, d.Settled)
	}
	var era Erasure
	for l.TakeDoomed(&era) {
		l.Erased(&era, 7, 0)
	}
	if !l.Sure() {
		t.Error("something can come back that is erased everywhere")
	}
	if !l.Reserve(2, false, &e) || e.Settled != c.Seq-1 {
		t.Errorf("settled is %d, not up to batch %d", e.Settled, c.Seq)
	}
}

// The window has room for so many batches, and no more.
func TestWindowIsFull(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	var p Placement
	n := 0
	for n <= windowBatches && l.Reserve(1, false, &p) {
		n++
	}
	if n != windowBatches {
		t.Errorf("%d batches are on their way in a window of %d", n, windowBatches)
	}
}

// Before the log begins there are only moves, which say what the recovery found
// settled, and no view says that all is.
func TestBeforeBegin(t *testing.T) {
	g := Geometry{K: 2, M: 1}
	l, err := NewLog(LogConfig{Geometry: g, Pages: 64, Groups: 1, Rows: 64})
	if err != nil {
		t.Fatal(err)
	}
	for c := range Col(3) {
		l.SetUp(0, c, true)
	}
	l.AcceptView(0, 7)
	rec := NewRecovery(l)
	i := Index(viewRows)
	if err := rec.Row(0, i, headersOf(g, l.Site(0, i), Header{Filled: 1, Members: 7, Seq: 90, Settled: 50}, 0b101)); err != nil {
		t.Fatal(err)
	}
	if err := rec.Row(0, i+1, headersOf(g, l.Site(0, i+1), Header{Filled: 1, Members: 7, Seq: 95, Settled: 50}, 0b001)); err != nil {
		t.Fatal(err)
	}
	rec.Notes()
	rec.Finish()
	if _, unsure, _ := l.Unsettled(); unsure != 1 {
		t.Fatalf("%d rows are unsure", unsure)
	}
	var v View
	if l.TakeView(&v) {
		t.Errorf("a view says that %d is settled while rows are unsure", v.Settled)
	}
	var p Placement
	if l.Reserve(1, false, &p) {
		t.Error("a page-out is placed before the log begins")
	}
	if !l.Reserve(1, true, &p) || p.Settled != 50 {
		t.Errorf("a move says that %d is settled, not 50", p.Settled)
	}
}

// Whom rows are written to, and whom their headers name.
func TestWhoIsWrittenTo(t *testing.T) {
	g := Geometry{K: 2, M: 2}
	l := begun(t, g, 15)
	var p Placement
	place := func(what string, members, named uint32) {
		t.Helper()
		if !l.Reserve(2, false, &p) || p.Members != members || p.Named != named {
			t.Errorf("%s: written to %b, named %b", what, p.Members, p.Named)
		}
		l.Commit(&p, items(&p, 0), p.Members)
	}
	place("all", 15, 15)
	l.SetLost(0, 3)
	place("one lost", 7, 7)
	if m := l.groups[0].view.members; m != 7 {
		t.Errorf("the view is %b", m)
	}
	install(t, l)
	l.Replace(0, 3)
	l.SetUp(0, 3, true)
	place("a new one that is not in the view yet", 7, 7)
	install(t, l)
	place("in the view", 15, 15)
	l.Replace(0, 1)
	if m := l.groups[0].view.members; m != 0b1101 {
		t.Errorf("the view is %b although member 1 is another chunk", m)
	}
	l.SetUp(0, 1, true)
	install(t, l)

	l.AddPending(0, 2)
	l.SetPendingUp(0, 2, true)
	install(t, l)
	for _, r := range must(l.PendingRows(0, 2, 0, make([]MissingRow, 0, 64))) {
		l.PendingRestored(0, 2, r)
	}
	install(t, l)
	l.Vouch(0, 2)
	l.SetPendingUp(0, 2, false)
	install(t, l)
	if l.Reserve(2, false, &p); p.Named&4 != 0 || p.Members != 15 {
		t.Errorf("a column in doubt: written to %b, named %b", p.Members, p.Named)
	}
}

// A view is written beside the one in force, to all who are in it, and is in force
// when all of them have it and are still who they were.
func TestViewIsInstalledWhole(t *testing.T) {
	g := Geometry{K: 2, M: 2}
	l := begun(t, g, 15)
	gr := &l.groups[0]
	before := gr.view
	next := func() (v View) {
		t.Helper()
		if !l.TakeView(&v) {
			t.Fatal("no view is due")
		}
		return v
	}
	l.Replace(0, 3)
	l.SetUp(0, 3, true)
	v := next()
	if v.Seq != before.seq || v.To != 8 {
		t.Errorf("record %d is written to %b, not the one in force to the newcomer", v.Seq, v.To)
	}
	l.Installed(&v, 8, 0)
	v = next()
	if v.Index == before.slot || v.To != 15 || v.Members != 15 {
		t.Errorf("written to %b at %d, over the one at %d, for %b", v.To, v.Index, before.slot, v.Members)
	}
	l.Installed(&v, v.To&^1, 0)
	if gr.view.seq != before.seq {
		t.Error("a view is in force that a member did not get")
	}
	v = next()
	l.Replace(0, 1)
	l.SetUp(0, 1, true)
	l.Installed(&v, v.To, 0)
	if gr.view.seq != before.seq {
		t.Error("a view is in force that the chunk of a member got which has left")
	}
	install(t, l)
	if gr.view.seq == before.seq || gr.view.members != 15 {
		t.Errorf("the view in force is %+v", gr.view)
	}
}

// Of two views the newer one is in force, in whatever order they are met.
func TestNewerViewIsInForce(t *testing.T) {
	g := Geometry{K: 2, M: 1}
	for newer := range 2 {
		l, err := NewLog(LogConfig{Geometry: g, Groups: 1, Rows: 8, Pages: 8})
		if err != nil {
			t.Fatal(err)
		}
		var rows [viewRows][][]byte
		for i := range rows {
			h := Header{Kind: KindView, Members: 0b011, Seq: 4, Site: l.Site(0, Index(i))}
			if i == newer {
				h.Members, h.Seq = 0b110, 6
			}
			b := make([]byte, HeaderSize)
			h.Put(b, nil)
			rows[i] = [][]byte{b, b, nil}
		}
		if ok, got := l.SetView(0, rows, 0), l.Witnesses(0).View; !ok || got != 0b110 {
			t.Errorf("record %d is newer: believed %b", newer, got)
		}
	}
}

// Which headers of a member that returns are those of the rows in use, and which
// are erased.
func TestKeepsAndExpects(t *testing.T) {
	g := Geometry{K: 2, M: 1}
	l := begun(t, g, 7)
	var p Placement
	if !l.Reserve(2, false, &p) {
		t.Fatal("no rows")
	}
	l.Commit(&p, items(&p, 0), 7)
	i := p.Index[0]
	row := func() Header {
		return Header{Kind: KindPage, Filled: 3, Members: 7, Seq: p.Seq, Site: l.Site(0, i)}
	}
	for name, c := range map[string]struct {
		change        func(h *Header, at *Index)
		unsound, miss bool
		keeps, wants  bool
	}{
		"as written":          {keeps: true, wants: true},
		"of another batch":    {change: func(h *Header, _ *Index) { h.Seq++ }},
		"of another place":    {change: func(h *Header, _ *Index) { h.Index++ }},
		"empty":               {change: func(h *Header, _ *Index) { *h = Header{} }},
		"damaged":             {unsound: true, keeps: true},
		"of a row not in use": {change: func(h *Header, at *Index) { *at++; h.Index++ }, wants: true},
		"of a row it misses":  {miss: true, keeps: true, wants: true},
	} {
		h, at := row(), i
		if c.change != nil {
			c.change(&h, &at)
		}
		if c.miss {
			l.SetMissed(0, i, 0)
		}
		if keeps, wants := l.keeps(0, at, 0, h, !c.unsound), l.Expects(0, at, 0, h, !c.unsound); keeps != c.keeps || wants != c.wants {
			t.Errorf("%s: keeps %v, expects %v", name, keeps, wants)
		}
		l.Restored(0, 0, MissingRow{Index: i, Tag: TagOf(p.Seq)})
	}
	if l.CanDecode(1, 3) || !l.CanDecode(1, 1) || !l.CanDecode(3, 3) {
		t.Error("what is enough to decode is not K, with what is known to be zeros")
	}
	if l.Holders(0, i) != 7 {
		t.Errorf("holders %b", l.Holders(0, i))
	}
	l.SetLost(0, 2)
	if l.Holders(0, i) != 3 {
		t.Errorf("holders %b although member 2 is lost", l.Holders(0, i))
	}
}
