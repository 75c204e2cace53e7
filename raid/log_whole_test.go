package raid

import "testing"

// The new member of a column was vouched for and is away; a page-out leaves its column
// out of the headers, and the old member has it. A record of the view is written
// meanwhile (a close would do that): it says that the column is whole, since the old
// member is. The metadata service has promoted the new one, the client is closed, the new
// one is back, and one member is away. Never more than one of three was away.
func TestViewSaysThatAColumnInDoubtIsWhole(t *testing.T) {
	g := Geometry{2, 1}
	newLog := func(e Epoch, up uint32) *Log {
		l, err := NewLog(LogConfig{Geometry: g, Groups: 1, Rows: 8, Pages: 2})
		if err != nil {
			t.Fatal(err)
		}
		for c := range Col(3) {
			l.SetUp(0, c, up&(1<<c) != 0)
		}
		l.StartSeq(FirstSeq(e))
		return l
	}
	const pend = 3
	var mem [4][8][]byte // members, and the pending one of column 2
	for k := range mem {
		for i := range mem[k] {
			mem[k][i] = made(g, Col(min(k, 2)), Site{Index: Index(i)})
		}
	}
	l := newLog(1, 7)
	views := func() {
		var v View
		for l.TakeView(&v) {
			h := l.ViewHeader(&v)
			put := func(k int) {
				h.Put(mem[k][v.Index], make([]RowEntry, RowTable(mem[k][v.Index])))
			}
			for c := range 3 {
				if v.To&(1<<c) != 0 {
					put(c)
				}
			}
			if v.Second != 0 {
				put(pend)
			}
			t.Logf("view: members %b whole %b settled %x to %b second %b", v.Members, v.Whole, v.Settled, v.To, v.Second)
			l.Installed(&v, v.To, v.Second)
		}
	}
	views()
	l.Begin()
	write := func() Slot {
		var p Placement
		if !l.Reserve(1, false, &p) {
			t.Fatal("no row")
		}
		h := Header{Kind: KindPage, Members: p.Named, Seq: p.Seq, Settled: p.Settled, Filled: p.FilledCols(0), Site: l.Site(0, p.Index[0])}
		table := make([]RowEntry, 2)
		items := []Item{{Kind: ItemPage}}
		for c := range p.N {
			if p.Members&(1<<c) != 0 {
				mem[c][p.Index[0]] = encode(h, nil)
			}
			table[c] = RowEntry{Kind: KindPage}
			if c > 0 {
				items = append(items, Item{Kind: ItemCopy})
			}
		}
		h.Kind = KindParity
		if p.Members&4 != 0 {
			mem[2][p.Index[0]] = encode(h, table)
		}
		if p.Second != 0 {
			mem[pend][p.Index[0]] = encode(h, table)
		}
		t.Logf("row %d: members %b named %b second %b filled %b", p.Index[0], p.Members, p.Named, p.Second, p.FilledCols(0))
		l.Commit(&p, items, p.Members)
		return l.Lookup(0).Slot
	}
	older := write()
	l.AddPending(0, 2)
	l.SetPendingUp(0, 2, true)
	rows, _ := l.PendingRows(0, 2, 0, make([]MissingRow, 0, 8))
	for _, r := range rows {
		mem[pend][r.Index] = mem[2][r.Index]
		l.PendingRestored(0, 2, r)
	}
	views()
	l.Vouch(0, 2) // and meta makes it the member
	l.SetPendingUp(0, 2, false)
	newer := write() // answered
	l.Advance()
	l.Advance()
	l.RenewViews() // as Close does
	views()

	l = newLog(2, 6) // member 0 is away, column 2 is the new one
	at := [3]int{-1, 1, pend}
	headers := func(i Index) [][]byte {
		b := make([][]byte, 3)
		for c, k := range at {
			if k >= 0 {
				b[c] = mem[k][i]
			}
		}
		return b
	}
	var vh [viewRows][][]byte
	for i := range vh {
		vh[i] = headers(Index(i))
	}
	if !l.SetView(0, vh, 0) || !l.Enough(0, 6) {
		t.Skip("refused loudly")
	}
	r := NewRecovery(l)
	for i := range Index(8) {
		if err := r.Row(0, i, headers(i)); err != nil {
			t.Fatal(err)
		}
	}
	r.Notes()
	state := r.Incomplete()
	r.Finish()
	got := l.Lookup(0)
	t.Logf("page 0: %+v, was in slot %d before and is in %d; %+v", got, older, newer, state)
	if state.Loss() {
		t.Skip("refused loudly")
	}
	if got.Kind != Stored || got.Slot != newer {
		t.Error("an answered write is lost without a word")
	}
}
