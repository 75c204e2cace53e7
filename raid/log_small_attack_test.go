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
