package raid

import "testing"

// recovering is a log of one group, into which a recovery is about to take the rows that
// members in read show, of whom it believes those in view.
func recovering(t *testing.T, g Geometry, read, view uint32) (*Log, *Recovery) {
	t.Helper()
	l, err := NewLog(LogConfig{Geometry: g, Pages: 64, Groups: 1, Rows: 64})
	if err != nil {
		t.Fatal(err)
	}
	for c := range Col(g.Members()) {
		l.SetUp(0, c, read&(1<<c) != 0)
	}
	l.AcceptView(0, view)
	return l, NewRecovery(l)
}

// only leaves the headers of the members in read.
func only(headers [][]byte, read uint32) [][]byte {
	for c := range headers {
		if read&(1<<c) == 0 {
			headers[c] = nil
		}
	}
	return headers
}

// What is erased for a batch says that all before it is dead, and not the batch.
func TestErasedForABatch(t *testing.T) {
	for seq, dead := range map[Seq]Seq{0: 0, 1: 0, 2: 1, 9: 8} {
		for _, table := range [][]RowEntry{nil, make([]RowEntry, 2)} {
			head := encode(Header{Kind: KindParity, Seq: seq, Site: Site{Volume: 3, Group: 4, Index: 5}}, table)
			erased := make([]byte, len(head))
			PutErasedFor(erased, head)
			if h, err := ParseHeader(erased); err != nil || h != (Header{Kind: KindErased, Seq: dead, Site: Site{Volume: 3, Group: 4, Index: 5}}) {
				t.Errorf("erased for batch %d: %+v, %v", seq, h, err)
			}
		}
	}
}

// An erasure says that all is dead that was numbered up to when its rows were taken, and
// nothing that is numbered later.
func TestErasuresSayWhatIsDead(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	var p Placement
	if !l.Reserve(2, false, &p) {
		t.Fatal("no rows")
	}
	l.Abandon(&p)
	var e Erasure
	if !l.TakeDoomed(&e) || e.Seq < p.Seq {
		t.Fatalf("batch %d is erased, and what is dead is said up to %d", p.Seq, e.Seq)
	}
	if next := l.NextSeq(); next <= e.Seq {
		t.Errorf("batch %d is said to be dead, up to %d", next, e.Seq)
	}
}

// What is written over a slot outside of an erasure says that what was there is dead only
// while no batch has the row, or is about to.
func TestDeadUpTo(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	p := put(t, l, 0, 2)
	i := p.Index[0]
	if seq := l.deadUpTo(0, i); seq != 0 {
		t.Errorf("a row in use is dead up to %d", seq)
	}
	var next Placement
	if !l.Reserve(2, false, &next) {
		t.Fatal("no rows")
	}
	if seq := l.deadUpTo(0, next.Index[0]); seq != 0 {
		t.Errorf("a row on its way is dead up to %d", seq)
	}
	l.Abandon(&next)
	if seq := l.deadUpTo(0, next.Index[0]); seq < next.Seq {
		t.Errorf("batch %d was given up, and its row is dead up to %d", next.Seq, seq)
	}
	var e Erasure
	for l.TakeDoomed(&e) {
		if seq := l.deadUpTo(0, e.Index[0]); seq != 0 {
			t.Errorf("a row that is being erased is dead up to %d", seq)
		}
		l.Erased(&e, e.Members, e.Second)
	}
	if seq := l.deadUpTo(0, next.Index[0]); seq < next.Seq {
		t.Errorf("batch %d was erased, and its row is dead up to %d", next.Seq, seq)
	}
}

// A row that only members have which are not believed it is in doubt, unless somebody
// tells that it was erased.
func TestErasedAmongOutsiders(t *testing.T) {
	g := Geometry{K: 2, M: 2}
	for erased, doubt := range map[Seq]int{0: 1, 8: 1, 9: 0, 20: 0} {
		l, r := recovering(t, g, 0b1011, 0b0111)
		h := only(headersOf(g, l.Site(0, viewRows), Header{Filled: 3, Members: 0b1100, Seq: 9, Settled: 5}, 0b1000), 0b1011)
		PutErased(h[0], l.Site(0, viewRows), erased)
		if err := r.Row(0, viewRows, h); err != nil {
			t.Fatal(err)
		}
		r.Notes()
		if got := r.Incomplete().Doubtful; got != doubt {
			t.Errorf("erased up to %d: %d rows are in doubt", erased, got)
		}
	}
}

// A member that is being rebuilt is believed that a row is dead, when it belongs to the view
// and holds its record: it was compared with the map before it was given that.
func TestErasedWhereItIsRebuilt(t *testing.T) {
	g := Geometry{K: 2, M: 2}
	for name, c := range map[string]struct {
		view, record uint32
		erased       Seq
		gone         bool
	}{
		"it is erased":                   {view: 0b1110, record: 0b1110, erased: 9, gone: true},
		"an older one is erased":         {view: 0b1110, record: 0b1110, erased: 8},
		"it does not hold the record":    {view: 0b1110, record: 0b0110, erased: 9},
		"it does not belong to the view": {view: 0b0110, record: 0b1110, erased: 9},
	} {
		l, r := recovering(t, g, 15, c.view)
		l.groups[0].view.filling, l.groups[0].view.copies = 0b1100, c.record
		h := headersOf(g, l.Site(0, viewRows), Header{Filled: 3, Members: 0b1110, Seq: 9, Settled: 9}, 0b0010)
		PutErased(h[3], l.Site(0, viewRows), c.erased)
		if err := r.Row(0, viewRows, h); err != nil {
			t.Fatal(err)
		}
		r.Notes()
		if gone := r.Incomplete().Undecodable == 0; gone != c.gone {
			t.Errorf("%s: the row is dead: %v", name, gone)
		}
	}
}

// A row that only members have which are not believed it, and that was sent to no member of
// the view, is none that was answered, if the view was made later and its members had everything.
func TestOutsidersRowBelowTheView(t *testing.T) {
	g := Geometry{K: 1, M: 2}
	for name, c := range map[string]struct {
		view  groupView
		to    uint32
		doubt int
	}{
		"below it":                {view: groupView{members: 0b110, whole: 0b110, seq: 10}, to: 0b001},
		"above it":                {view: groupView{members: 0b110, whole: 0b110, seq: 8}, to: 0b001, doubt: 1},
		"who lacks it never had":  {view: groupView{members: 0b110, whole: 0b100, seq: 10}, to: 0b001, doubt: 1},
		"sent to one that is out": {view: groupView{members: 0b110, whole: 0b110, seq: 10}, to: 0b101, doubt: 1},
		"sent to one that is not": {view: groupView{members: 0b110, whole: 0b110, seq: 10}, to: 0b011},
	} {
		l, r := recovering(t, g, 0b011, 0b110)
		l.groups[0].view = c.view
		l.groups[0].view.filling = 0b001
		h := headersOf(g, l.Site(0, viewRows), Header{Filled: 1, Members: c.to, Seq: 9, Settled: 5}, 0b001)
		if err := r.Row(0, viewRows, only(h, 0b011)); err != nil {
			t.Fatal(err)
		}
		r.Notes()
		if got := r.Incomplete().Doubtful; got != c.doubt {
			t.Errorf("%s: %d rows are in doubt", name, got)
		}
	}
}

// A member out of the view whose slot is that of another place tells nothing of the row.
func TestOutsiderOfAnotherPlace(t *testing.T) {
	g := Geometry{K: 2, M: 2}
	for at, doubt := range map[Index]int{viewRows: 0, viewRows + 1: 1} {
		l, r := recovering(t, g, 0b1001, 0b0111)
		h := only(headersOf(g, l.Site(0, viewRows), Header{Filled: 3, Members: 15, Seq: 9, Settled: 5}, 0b0001), 0b1001)
		h[3] = made(g, 3, l.Site(0, at))
		if err := r.Row(0, viewRows, h); err != nil {
			t.Fatal(err)
		}
		r.Notes()
		if got := r.Incomplete().Doubtful; got != doubt {
			t.Errorf("the slot of row %d: %d rows are in doubt", at, got)
		}
	}
}

// Of a row that nobody has any more, and that was damaged, K others have to tell that it was
// never answered, whether they belong to the view or not. It is erased in any case.
func TestNothingButDamage(t *testing.T) {
	g := Geometry{K: 2, M: 2}
	for name, c := range map[string]struct {
		read, view, blank uint32
		doubt             int
	}{
		"three others":                       {read: 15, view: 15},
		"two others":                         {read: 0b0111, view: 15},
		"one other":                          {read: 0b0011, view: 15, doubt: 1},
		"two out of the view":                {read: 0b1101, view: 0b0011},
		"one out of the view":                {read: 0b1001, view: 0b0011, doubt: 1},
		"two that have forgotten their view": {read: 0b0111, view: 15, blank: 0b0100, doubt: 1},
	} {
		l, r := recovering(t, g, c.read, c.view)
		l.groups[0].view.blank = c.blank
		h := only(headersOf(g, l.Site(0, viewRows), Header{}, 0), c.read)
		h[0][9] ^= 1
		if err := r.Row(0, viewRows, h); err != nil {
			t.Fatal(err)
		}
		r.Notes()
		if got := r.Incomplete().Doubtful; got != c.doubt {
			t.Errorf("%s: %d rows are in doubt", name, got)
		}
		r.Finish()
		if l.Doomed() != 1 {
			t.Errorf("%s: %d rows are to be erased", name, l.Doomed())
		}
		if err := l.Check(0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Who was sent nothing of a settled row does not tell that it is dead.
func TestWhoWasNotSentARowIsNoWitness(t *testing.T) {
	g := Geometry{K: 3, M: 2}
	for name, c := range map[string]struct {
		read, members uint32
		whole         bool // all had every row when the view was made
		dead          bool
	}{
		"a column that was not filled":                 {read: 0b00101, members: 31, whole: true},
		"a column that was not filled, since the view": {read: 0b00101, members: 31},
		"one that was":                                      {read: 0b00011, members: 31, whole: true, dead: true},
		"one that was, since the view":                      {read: 0b00011, members: 31, dead: true},
		"one that was out when it was sent, since the view": {read: 0b10001, members: 0b01111},
	} {
		l, r := recovering(t, g, c.read, 31)
		if c.whole {
			l.groups[0].view.settled, l.groups[0].view.whole = 9, 31
		}
		h := headersOf(g, l.Site(0, viewRows), Header{Filled: 3, Members: c.members, Seq: 9, Settled: 5}, 1)
		other := headersOf(g, l.Site(0, viewRows+1), Header{Filled: 1, Members: 31, Seq: 12, Settled: 10}, 31)
		for i, h := range [][][]byte{h, other} {
			if err := r.Row(0, viewRows+Index(i), only(h, c.read)); err != nil {
				t.Fatal(err)
			}
		}
		r.Notes()
		if n := r.Incomplete().Undecodable; (n == 0) != c.dead {
			t.Errorf("%s: %d rows cannot be decoded and count", name, n)
		}
	}
}

// No batch is numbered so that an erased slot says it is dead.
func TestNumbersGoOnAboveWhatWasErased(t *testing.T) {
	g := Geometry{K: 2, M: 1}
	l, r := recovering(t, g, 7, 7)
	h := headersOf(g, l.Site(0, viewRows), Header{}, 0)
	PutErased(h[1], l.Site(0, viewRows), 50)
	if err := r.Row(0, viewRows, h); err != nil {
		t.Fatal(err)
	}
	r.Notes()
	r.Finish()
	if next := l.NextSeq(); next <= 50 {
		t.Errorf("an erased slot says that all is dead up to 50, and the next batch is %d", next)
	}
}

// Of several members that tell of what is dead the one counts that knows most.
func TestHighestErasedCounts(t *testing.T) {
	g := Geometry{K: 2, M: 2}
	for _, says := range [][2]Seq{{9, 3}, {3, 9}} {
		l, r := recovering(t, g, 15, 15)
		h := headersOf(g, l.Site(0, viewRows), Header{Filled: 3, Members: 15, Seq: 9, Settled: 5}, 3)
		PutErased(h[2], l.Site(0, viewRows), says[0])
		PutErased(h[3], l.Site(0, viewRows), says[1])
		if err := r.Row(0, viewRows, h); err != nil {
			t.Fatal(err)
		}
		r.Notes()
		r.Finish()
		if l.used != 0 || l.Doomed() != 1 {
			t.Errorf("dead up to %d: %d rows are in use, %d are to be erased", says, l.used, l.Doomed())
		}
	}
}

// A dead row that one member says to be dead up to a number above what is settled is erased
// at all before the log begins, not some time after.
func TestDeadRowThatOneSaysIsDead(t *testing.T) {
	g := Geometry{K: 2, M: 2}
	l, r := recovering(t, g, 15, 15)
	dead := headersOf(g, l.Site(0, viewRows+1), Header{Filled: 3, Members: 15, Seq: 4, Settled: 3}, 0b0001)
	PutErased(dead[1], l.Site(0, viewRows+1), 9)
	settled := headersOf(g, l.Site(0, viewRows), Header{Filled: 3, Members: 15, Seq: 6, Settled: 5}, 15)
	for i, h := range [][][]byte{settled, dead} {
		if err := r.Row(0, viewRows+Index(i), h); err != nil {
			t.Fatal(err)
		}
	}
	r.Finish()
	if l.voids != 1 {
		t.Errorf("%d rows are erased before the log begins", l.voids)
	}
}
