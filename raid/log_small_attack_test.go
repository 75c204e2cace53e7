package raid

import (
	"strings"
	"testing"
)

// A client that was replaced gives up a row that its successor has taken in, and erases it
// at a member that its successor does not reach. When that member is back in the view, what
// its slot says to be dead must not count against a row in use.
func TestSmallErasedByAReplacedClient(t *testing.T) {
	smallRegression(t, Geometry{2, 1}, "begin 0; cut 2/0; finish 0; tidy 0; begin 0; back 2/0; takeover 3/0/1/0/1; settle 0; ofinish 0; otidy 0; back 2; tidy 0; crash 0; open 7; tidy 0")
}

// The same, and what it gave up was a move by its cleaner, of a page that was answered long
// before. Its successor has used the old place since: the page is gone, and reads as zeros.
func TestSmallMoveErasedByAReplacedClient(t *testing.T) {
	smallRegression(t, Geometry{2, 1}, "write 0; begin 1; cut 2/0; finish 0; tidy 0; beginmove 2; back 2/0; takeover 3/0/1/0/1; settle 0; write 1; write 1; ofinish 0; otidy 0; back 2; tidy 0; crash 0; open 7; settle 0")
}

// The same, and that member shows later what its slot said then.
func TestSmallErasedByAReplacedClientShownAgain(t *testing.T) {
	smallRegression(t, Geometry{2, 1}, "begin 0; cut 2/0; finish 0; tidy 0; begin 0; back 2/0; takeover 3/0/1/0/1; settle 0; ofinish 0; otidy 0; back 2; tidy 0; turn 18; crash 0; open 7; tidy 0")
}

// A member comes back with a row that was never answered, and that nobody else has. It is
// not taken into the view before the others tell that the row is dead: when the client
// ends then, and the member shows the row again, what was read in its place is there.
func TestSmallLeftoverIsErasedBeforeTheView(t *testing.T) {
	for _, schedule := range []string{
		"begin 0; crash 0; open 1/0; tidy 0; back 1/1; view 0; done 0; view 0; done 0; restore 1/0; turn 10; crash 0; open 3; tidy 0",
		"begin 0; crash 0; open 1/0; back 1/1; view 0; done 0; view 0; done 0; turn 10; crash 0; open 3; tidy 0",
	} {
		// That a view is not begun is right.
		if _, err := playSmall(newSmallScope(Geometry{1, 1}, 1, 6, smallKinds), schedule); err != nil && !strings.Contains(err.Error(), "nothing happens") {
			t.Errorf("%s: %v", schedule, err)
		}
	}
	for _, steps := range []string{"tidy 0; back 1/1; view 0; done 0", "back 1/1"} {
		w := smallRegression(t, Geometry{1, 1}, "begin 0; crash 0; open 1/0; "+steps)
		if g := &w.cur.log.groups[0]; w.cur.log.wanted(g)&(1<<1) != 0 || g.ndoomed == 0 {
			t.Errorf("%s: the view is to be of %b while %d rows wait to be erased", steps, w.cur.log.wanted(g), g.ndoomed)
		}
	}
}

// The same, where the slots of the others have an older row, which is dead but not free
// before the log begins: it is erased when it is.
func TestSmallLeftoverInADeadRowIsErasedEverywhere(t *testing.T) {
	w := smallRegression(t, Geometry{1, 1}, "write 1; write 0; write 0; begin 0; crash 0; open 1/0; back 1/1; note 0; fill 1; tidy 0; write 1; tidy 0")
	if h := w.m[0].slots[3].now.h; h.Kind != KindErased || h.Seq <= FirstSeq(1)+5 {
		t.Fatalf("member 0 says of the row that member 1 came back with: %+v", h)
	}
}

// The same, and the client ends after it has begun and before those rows are free.
func TestSmallLeftoverInADeadRowShownBeforeItIsErased(t *testing.T) {
	smallRegression(t, Geometry{1, 1}, "write 1; write 0; write 0; begin 0; crash 0; open 1/0; back 1/1; note 0; fill 1; tidy 0; turn 11; crash 0; open 3; settle 0")
}

// What a pending member came back with of a row that was given up is erased at the members
// too, before it is vouched for: as a member it could show it again.
func TestLeftoverOfAPendingMember(t *testing.T) {
	l, r := recovering(t, Geometry{1, 1}, 0b01, 0b11)
	r.Finish()
	l.AddPending(0, 1)
	given := Header{Kind: KindPage, Filled: 1, Members: 0b11, Seq: 7, Site: l.Site(0, viewRows)}
	if _, erase := l.Leftover(0, viewRows, 1, given, true, true); !erase {
		t.Error("it stays")
	}
	kept := Header{Kind: KindErased, Site: l.Site(0, viewRows+1)}
	if _, erase := l.Leftover(0, viewRows+1, 1, kept, true, true); erase {
		t.Error("what is erased is erased again")
	}
	l.SetPendingUp(0, 1, true)
	begin(l)
	views(l)
	if l.MayVouch(0, 1) {
		t.Error("it is vouched for")
	}
	var e Erasure
	if !l.TakeDoomed(&e) || e.Members != 0b01 || e.Second != 0b10 || e.Rows != 1 || e.Index[0] != viewRows {
		t.Fatalf("erased: %+v", e)
	}
	l.Erased(&e, e.Members, e.Second)
	if !l.MayVouch(0, 1) {
		t.Error("it is not vouched for")
	}
}

// A member has a row that was given up. It is erased there, and the client ends before it is
// erased at the others, or before that member is compared at all. However that goes on, the
// member brings nothing back when it shows the row again.
func TestSmallGivenUpAndErasedAtOne(t *testing.T) {
	t.Skip("not mended: docs/failure.md, known faults")
	for name, schedule := range map[string]string{
		"compared by a client that does not begin":     "begin 0; takeover 3/0/0/0; back 2/1; takeover 7; settle 0; turn 18; crash 0; open 7/0/0; settle 0",
		"compared by a client that has begun":          "begin 0; crash 0; open 3/0; settle 0; back 2/1; crash 0; open 7; back 2; tidy 0; turn 18; crash 0; open 7; settle 0",
		"away while a client lives":                    "begin 0; crash 0; open 3/0; settle 0; crash 0; open 7/1; back 2; tidy 0; turn 18; crash 0; open 7; settle 0",
		"an erasure that one member only has received": "begin 0; cut 2/0; back 2/1; finish 0; erase 0; cut 2/1; takeover 7; settle 0; turn 18; crash 0; open 7; settle 0",
	} {
		if _, err := playSmall(newSmallScope(Geometry{2, 1}, 1, 6, smallKinds), schedule); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The erasure that is to let that member into the view fails at the others, which are back
// at once: it stays out until they say that the row is dead.
func TestErasedAtTheReturningMemberOnly(t *testing.T) {
	t.Skip("not mended: docs/failure.md, known faults")
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	g := &l.groups[0]
	l.setStale(g, 2, viewRows, true)
	l.setMask(0, func(g *logGroup) { g.leaveView(2) })
	l.doomStale(g, 2)
	var e Erasure
	for _, done := range []uint32{0b100, 0b110, 0b111} {
		if !l.TakeDoomed(&e) {
			t.Fatal("nothing is erased")
		}
		l.Erased(&e, done, 0)
		if in := l.wanted(g)&0b100 != 0; in != (done == 0b111) {
			t.Errorf("erased at %b: in the view: %v", done, in)
		}
	}
}

// What a recovery gives up, or finds that some have given up, a member says too that was
// not read then, when it comes back: the others may be gone later.
func TestGivenUpIsSaidByAll(t *testing.T) {
	t.Skip("not mended: docs/failure.md, known faults")
	g := Geometry{K: 2, M: 2}
	l, r := recovering(t, g, 0b0111, 0b1111)
	at := l.Site(0, viewRows)
	torn := only(headersOf(g, at, Header{}, 0), 0b0111)
	PutErased(torn[0], at, 9)
	later := only(headersOf(g, l.Site(0, viewRows+1), Header{Filled: 3, Members: 0b0111, Seq: 6, Settled: 5}, 0b0111), 0b0111)
	for i, h := range [][][]byte{torn, later} {
		if err := r.Row(0, viewRows+Index(i), h); err != nil {
			t.Fatal(err)
		}
	}
	r.Finish()
	for name, h := range map[string]Header{
		"nothing":      {Kind: KindErased, Site: at},
		"an older row": {Kind: KindParity, Filled: 3, Members: 0b1111, Seq: 4, Settled: 3, Site: at},
	} {
		if dead, erase := l.Leftover(0, viewRows, 3, h, true, false); !erase || dead < 9 {
			t.Errorf("it came back with %s: erased: %v, up to %d", name, erase, dead)
		}
	}
}

// A row that was given up is erased at the one member that has it. Another one, that says
// nothing of it, comes back: it has to say so too before it is in the view.
func TestSmallGivenUpWhileSomebodyIsAway(t *testing.T) {
	t.Skip("not mended: docs/failure.md, known faults")
	for _, schedule := range []string{
		"begintrim 0; crash 0; open 1/1; crash 0; open 2/0; back 0; crash 0; open 1; back 1; settle 0; turn 2; crash 0; open 3; tidy 0",
		"begin 0; crash 0; open 2/0; back 0/1; crash 0; open 1; back 1/0; settle 0; turn 2; crash 0; open 3; tidy 0",
	} {
		if _, err := playSmall(newSmallScope(Geometry{1, 1}, 1, 6, smallKinds), schedule); err != nil {
			t.Errorf("%s: %v", schedule, err)
		}
	}
}
