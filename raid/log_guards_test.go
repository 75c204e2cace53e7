package raid

import (
	"strings"
	"testing"
)

// begun is a log of one group of 64 rows, open, with these members up.
func begun(t *testing.T, g Geometry, up uint32) *Log {
	t.Helper()
	l, err := NewLog(LogConfig{Geometry: g, Pages: 256, Groups: 1, Rows: 64})
	if err != nil {
		t.Fatal(err)
	}
	for c := range Col(g.Members()) {
		l.SetUp(0, c, up&(1<<c) != 0)
	}
	l.AcceptView(0, l.all())
	install(t, l)
	l.Begin()
	return l
}

// install writes all views that are due.
func install(t *testing.T, l *Log) {
	t.Helper()
	var v View
	for l.TakeView(&v) {
		l.Installed(&v, v.To, v.Second)
	}
}

// items are new versions of n pages from first on, for a placement.
func items(p *Placement, first PageNo) []Item {
	all := make([]Item, p.N)
	for i := range all {
		all[i] = Item{Kind: ItemPage, Page: first + PageNo(i)}
		if i >= p.Pages {
			all[i] = Item{Kind: ItemCopy}
		}
	}
	return all
}

// refused reports that f panics with words that say why.
func refused(t *testing.T, what, words string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if r := recover(); r == nil || !strings.Contains(r.(string), words) {
			t.Errorf("%s: %v", what, r)
		}
	}()
	f()
}

// What must not be answered is not committed, whatever the driver says.
func TestCommitRefuses(t *testing.T) {
	g := Geometry{K: 3, M: 2}
	l := begun(t, g, l32(g))
	var p Placement
	reserve := func() []Item {
		if !l.Reserve(3, false, &p) {
			t.Fatal("no rows")
		}
		return items(&p, 0)
	}
	it := reserve()
	refused(t, "fewer members than are named", "too few members have", func() { l.Commit(&p, it, 0b01111) })
	p.Named = 0b00001
	refused(t, "fewer members than the least", "too few members have", func() { l.Commit(&p, it, 0b00011) })
	p.Named = 0b00011
	refused(t, "a row that M members know of", "too few members know of", func() { l.Commit(&p, it, 0b11111) })
	p.Named = 0b11111
	l.Commit(&p, it, 0b11111)

	l.AddPending(0, 1)
	l.SetPendingUp(0, 1, true)
	install(t, l)
	for _, r := range must(l.PendingRows(0, 1, 0, make([]MissingRow, 0, 8))) {
		l.PendingRestored(0, 1, r)
	}
	install(t, l)
	l.Vouch(0, 1)
	it = reserve()
	p.Second = 0
	refused(t, "without who was vouched for", "vouched for", func() { l.Commit(&p, it, 0b11111) })
}

func l32(g Geometry) uint32 { return uint32(1)<<g.Members() - 1 }

func must[T any](v T, _ Index) T { return v }

// A row has copies until more than M of the members that its headers name know of
// it, whoever is out.
func TestMoreThanMKnow(t *testing.T) {
	for _, g := range []Geometry{{K: 3, M: 2}, {K: 4, M: 2}, {K: 2, M: 1}, {K: 4, M: 3}} {
		for out := range g.Members() {
			l := begun(t, g, l32(g))
			l.SetUp(0, Col(out), false)
			install(t, l)
			var p Placement
			if !l.Reserve(1, false, &p) {
				continue
			}
			know := p.Named & (l32(g)&^(1<<g.K-1) | uint32(p.FilledCols(0)))
			if n := popcount(know); n <= g.M {
				t.Errorf("%v without member %d: %d members know of the row", g, out, n)
			}
		}
	}
}

// A log does not begin with what is not settled, and frees nothing before it does.
func TestBeginRefuses(t *testing.T) {
	g := Geometry{K: 2, M: 1}
	l, err := NewLog(LogConfig{Geometry: g, Pages: 64, Groups: 1, Rows: 64})
	if err != nil {
		t.Fatal(err)
	}
	for c := range Col(3) {
		l.SetUp(0, c, true)
	}
	refused(t, "a group without a view", "not settled", l.Begin)
	l.AcceptView(0, 7)
	rec := NewRecovery(l)
	for i, seq := range []Seq{5, 4} { // of two versions of a page the older one is dead
		if err := rec.Row(0, Index(viewRows+i), headersOf(g, l.Site(0, Index(viewRows+i)), Header{Filled: 1, Members: 7, Seq: seq}, 7)); err != nil {
			t.Fatal(err)
		}
	}
	rec.Notes()
	rec.Finish()
	before := l.Stats()
	l.Advance()
	l.Advance()
	if now := l.Stats(); now.FreeRows != before.FreeRows || now.Limbo != before.Limbo {
		t.Errorf("rows that a recovery took in are free before the log begins: %+v, then %+v", before, now)
	}
}

// headersOf is what the members in have hold of a row of page 0.
func headersOf(g Geometry, site Site, h Header, have uint32) [][]byte {
	all := make([][]byte, g.Members())
	for c := range all {
		all[c] = made(g, Col(c), site)
		if have&(1<<c) == 0 || c < g.K && h.Filled&(1<<c) == 0 {
			continue
		}
		x := h
		x.Site, x.Kind = site, KindPage
		var table []RowEntry
		if c >= g.K {
			x.Kind = KindParity
			table = make([]RowEntry, g.K)
			for d := range table {
				if h.Filled&(1<<d) != 0 {
					table[d] = RowEntry{Kind: KindPage}
				}
			}
		}
		x.Put(all[c], table)
	}
	return all
}

// The numbers of a lease do not run into those of the next.
func TestExhaustedTakesNothing(t *testing.T) {
	g := Geometry{K: 2, M: 1}
	l := begun(t, g, 7)
	l.StartSeq(FirstSeq(2) - 2)
	var p Placement
	if l.Reserve(1, false, &p) {
		t.Errorf("a batch of lease 1 is numbered %#x", p.Seq)
	}
}

// The pages of a note that was read once only belong to none, not to an older one.
func TestBindOfOlderNote(t *testing.T) {
	g := Geometry{K: 1}
	l, err := NewLog(LogConfig{Geometry: g, Pages: 64, Groups: 1, Rows: 64})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUp(0, 0, true)
	l.AcceptView(0, 1)
	rec := NewRecovery(l)
	pages := map[Seq][]byte{}
	for i, seq := range []Seq{4, 5} {
		page := make([]byte, PageSize)
		n := NewNotes(page)
		n.Append(NoteRecord{Start: 0, Count: 1, Fill: byte(seq), Seq: seq})
		pages[seq] = page
		b := make([]byte, HeaderSize)
		h := Header{Kind: KindNotes, Filled: 1, Members: 1, Seq: seq, CRC: Checksum(page), Site: l.Site(0, Index(viewRows+i))}
		h.Put(b, nil)
		if err := rec.Row(0, Index(viewRows+i), [][]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	slots := rec.Notes()
	for i, seq := range []Seq{5, 4} {
		if err := rec.Note(slots[i], pages[seq]); err != nil {
			t.Fatal(err)
		}
	}
	if err := rec.Bind(slots[1], pages[4]); err != nil {
		t.Fatal(err)
	}
	if e := l.Lookup(0); e.Kind != Absent {
		t.Errorf("a page whose newest record was lost is %+v", e)
	}
}

// Of two headers of one number that say different things only one is of the row.
func TestHeadersThatContradict(t *testing.T) {
	g := Geometry{K: 2, M: 1}
	site := Site{Volume: 1, Index: 9}
	hs := headersOf(g, site, Header{Filled: 3, Members: 7, Seq: 5}, 7)
	x, err := ParseHeader(hs[2])
	if err != nil {
		t.Fatal(err)
	}
	x.Members = 3
	x.Put(hs[2], []RowEntry{{Kind: KindPage}, {Kind: KindPage}})
	var h RowHeaders
	h.Parse(g, site, hs, Witnesses{View: 7})
	if h.have != 3 || h.broken != 4 {
		t.Errorf("have %b, broken %b", h.have, h.broken)
	}
}

// Who lacks a row that was settled leaves the view until it has it.
func TestDamagedLeavesTheView(t *testing.T) {
	g := Geometry{K: 2, M: 2}
	l, err := NewLog(LogConfig{Geometry: g, Pages: 64, Groups: 1, Rows: 64})
	if err != nil {
		t.Fatal(err)
	}
	for c := range Col(4) {
		l.SetUp(0, c, true)
	}
	l.AcceptView(0, 15)
	rec := NewRecovery(l)
	i := Index(viewRows)
	if err := rec.Row(0, i, headersOf(g, l.Site(0, i), Header{Filled: 1, Members: 15, Seq: 5, Settled: 5}, 0b1101&^8)); err != nil {
		t.Fatal(err)
	}
	rec.Notes()
	rec.Finish()
	if got := l.groups[0].damaged; got != 8 {
		t.Errorf("damaged are %b", got)
	}
	install(t, l)
	l.Begin()
	if got := l.groups[0].view.members; got != 7 {
		t.Errorf("the view is %b although member 3 lacks a settled row", got)
	}
	l.Restored(0, 3, MissingRow{Index: i, Tag: TagOf(5)})
	install(t, l)
	if got := l.groups[0].view.members; got != 15 {
		t.Errorf("the view is %b although member 3 has all", got)
	}
}
