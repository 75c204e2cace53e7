package raid

import (
	"strings"
	"testing"
)

// smallRegression plays a schedule that a walk found to end badly once.
func smallRegression(t *testing.T, g Geometry, schedule string) *smallWorld {
	t.Helper()
	w, err := playSmall(newSmallScope(g, 1, 6, smallKinds), schedule)
	if err != nil {
		t.Fatalf("%v: %v", g, err)
	}
	return w
}

// Member 0 was out while a row was written, which was noted, was given that row, and
// the note was taken back. The row's headers do not name it. The next client does not
// reach it at first, and ends while it compares it: what it erases there may be the
// only copy that the client after that can reach, and nobody knows that it is missing.
func TestSmallCompareKeepsARestoredRow(t *testing.T) {
	smallRegression(t, Geometry{1, 1}, "cut 0; tidy 0; write 0; back 0; restore 0; crash 0; open 2; back 0; crash 0; open 1; tidy 0")
}

// Member 0 misses a row that was answered, and member 1 forgets everything. Whether
// the row was answered nobody who is left can tell: what has forgotten its view is no
// witness against it.
func TestSmallForgetfulMemberIsNoWitness(t *testing.T) {
	w := smallRegression(t, Geometry{2, 1}, "cut 0; write 0; back 0; zero 1; crash 0; open 7")
	if !w.refused {
		t.Fatal("a row is dropped on the word of a member whose memory is zeros")
	}
}

// Member 0 forgets everything, and is given the record of the view while a row that it
// lacks is still to be moved. When the client ends then, and the next one believes only
// member 0, that has to be seen.
func TestSmallForgetfulMemberGetsTheViewLast(t *testing.T) {
	w := smallRegression(t, Geometry{1, 2}, "write 0; zero 0; crash 0; open 3; tidy 0; crash 0; open 1")
	if !w.refused {
		t.Fatal("a member that has forgotten everything is believed")
	}
}

// A batch that was not answered is taken in while one member is away. That comes back
// before the log begins, and has the version before, which the map takes for dead. The
// client ends, and the next one finds that member alone.
func TestSmallCompareKeepsWhatUnsettledRowsReplace(t *testing.T) {
	smallRegression(t, Geometry{1, 1}, "write 0; begin 0; crash 0; open 1/1; back 1/0; crash 0; open 2; tidy 0")
}

// A row of one page lies at more than M members, of which some leave the view while it is
// above what is settled. When those who stayed are gone, what the others hold may have
// been answered: that has to be seen.
func TestSmallRowsThatOnlyOutsidersHold(t *testing.T) {
	for _, c := range []struct {
		g        Geometry
		schedule string
	}{
		{Geometry{2, 1}, "begin 1; begin 0; finish 1; cut 0/0; finish 0; view 0; done 0; back 0; lose 2; crash 0; open 3"},
		{Geometry{2, 1}, "begin 1; begin 0; finish 1; cut 0/0; finish 0; view 0; done 0; back 0; zero 2; crash 0; open 7"},
		{Geometry{2, 2}, "begin 1; begin 0; finish 1; cut 0/0; finish 0; view 0; done 0; back 0; lose 2; lose 3; crash 0; open 3"},
		{Geometry{2, 1}, "write 1; write 0; turn 2; crash 0; open 7; tidy 0; restore 0; lose 2; crash 0; open 3"},
		{Geometry{2, 1}, "write 0; crash 0; open 7; cut 0; settle 0; back 0; lose 2; crash 0; open 3"},
		{Geometry{2, 1}, "begin 1; begin 0; cut 0/0/1; finish 0; view 0; done 0; finish 0; back 0; lose 2; crash 0; open 3"},
	} {
		if w := smallRegression(t, c.g, c.schedule); !w.refused {
			t.Errorf("%v: %s: it opens without a row that was answered", c.g, c.schedule)
		}
	}
}

// A row that was sent to one member while the other was noted is at all that it was sent
// to. What it replaces, which was answered, stays until the log begins all the same.
func TestSmallThinRowFreesNothing(t *testing.T) {
	smallRegression(t, Geometry{1, 1}, "write 0; cut 1; note 0; begin 0; back 1; restore 1/0; begin 1; crash 0; open 3/1/1/0; beginsettle 0; finish 0; crash 0; open 2; settle 0")
}

// A row was given up, and erased everywhere. A member that shows it again brings nothing
// back while another one tells that it was erased.
func TestSmallOldSlotOfAnErasedRow(t *testing.T) {
	smallRegression(t, Geometry{1, 1}, "begin 0; begin 1; finish 0; cut 1/0; back 1/1; begin 0; finish 0; tidy 0; finish 0; turn 11; move 4; crash 0; open 3; tidy 0")
}

// A member forgets everything while another one is short of rows, and is given the
// record of the view again. What it lost it does not testify to be dead.
func TestSmallLostMemoryIsNoWitness(t *testing.T) {
	for _, c := range []struct {
		g        Geometry
		schedule string
	}{
		{Geometry{2, 1}, "begintrim 0; crash 0; open 6/1; settle 0; back 0/2; zero 2; tidy 0; crash 0; open 7"},
		{Geometry{3, 2}, "crash 0; open 29/1/0; settle 0; crash 0; open 30; settle 0; back 1; begintrim 0; finish 0; zero 4; tidy 0; crash 0; open 30"},
	} {
		if w := smallRegression(t, c.g, c.schedule); !w.refused {
			t.Errorf("%v: %s: it opens without a row that was answered", c.g, c.schedule)
		}
	}
}

// A row that was never answered is erased at the one member that has it, which comes back
// when the recovery is over. The others must tell of that: it may show the row again.
func TestSmallLeftoverIsErasedEverywhere(t *testing.T) {
	smallRegression(t, Geometry{2, 1}, "begin 0; crash 0; open 3/2; back 2/1; tidy 0; turn 18; crash 0; open 7; tidy 0")
}

// A volume is so full that a row is not moved which a recovery is not sure of. It is of one
// page, and only one member has it: who was sent nothing of it does not know of it. So the
// log does not begin, instead of reading something else when that member is lost.
func TestSmallSparedRowIsKnown(t *testing.T) {
	const schedule = "begin 0; write 1; takeover 6/1/1; takeover 5/0; back 1; settle 0"
	w, err := playSmall(newSmallScope(Geometry{2, 1}, 1, 4, smallKinds), schedule)
	if err != nil {
		t.Fatal(err)
	}
	if w.cur.log.opened {
		t.Error("it opens")
	}
}

// A member is back while a record is on its way that was made without it. It is not in sync
// before there is one that says so: the client may end when that record is at some.
func TestSmallInSyncByTheRecordOnItsWay(t *testing.T) {
	w := smallRegression(t, Geometry{2, 2}, "lose 1; cut 0; replace 1; view 0; done 0; view 0; back 0")
	if l := w.cur.log; l.InView(0, 0) || !l.InView(0, 3) {
		t.Errorf("member 0 is in sync: %v, member 3: %v", l.InView(0, 0), l.InView(0, 3))
	}
	if w.tidy(w.cur); !w.cur.log.InView(0, 0) {
		t.Error("it is never in sync")
	}
}

// The same, and before the record that is on its way another one was begun that failed, and
// that some members hold.
func TestSmallInSyncByEachRecordBegun(t *testing.T) {
	const begun = "writeboth 0; lose 1; cut 0; replace 1; view 0; done 0; view 0; cut 1/0; done 0; back 1; back 0; view 0"
	w := smallRegression(t, Geometry{2, 2}, begun)
	if l := w.cur.log; l.InView(0, 0) || !l.InView(0, 3) {
		t.Errorf("member 0 is in sync: %v, member 3: %v", l.InView(0, 0), l.InView(0, 3))
	}
	if w.tidy(w.cur); !w.cur.log.InView(0, 0) {
		t.Error("it is never in sync")
	}
	smallRegression(t, Geometry{2, 2}, begun+"; cut 2/0; crash 0; open 11/0")
}

// A client takes in a row that the one before has given up, and is erasing. While it is not
// known that nobody erases it, what it replaces is not written over: neither when the row is
// not moved for lack of room, nor when only a member that is not believed says it to be dead.
func TestSmallRowsThatMayNotLast(t *testing.T) {
	for schedule, stops := range map[string]string{
		"write 0; begin 0; cut 1/0; finish 0; back 1; begin 1; erase 0; takeover 5/0/0/1/1/0/0/1/0; spare 0; tidy 0; beginsettle 0; finish 0; crash 0; open 7/0/1; settle 0":                                      "tidy 0",
		"write 0; begin 0; cut 1/0; finish 0; back 1; erase 0; cut 0/0; back 0/1; cut 2/0; back 2/1; done 0; cut 1; begin 1; view 0; crash 0; open 7/1/1/0/0; beginsettle 0; finish 0; crash 0; open 6; settle 0": "beginsettle 0",
	} {
		_, err := playSmall(newSmallScope(Geometry{2, 1}, 1, 5, smallKinds), schedule)
		if err == nil || !strings.Contains(err.Error(), stops+": nothing happens") {
			t.Errorf("%s: %v", schedule, err)
		}
	}
}

// Members fall silent when their headers were read, so that notes cannot be read, and the
// one that goes on shows an old slot. That it lacks the note proves nothing while the others
// may answer again.
func TestSmallHushedNotes(t *testing.T) {
	for g, schedule := range map[Geometry]string{
		{K: 1, M: 1}: "trim 0; takeover 3/1/2; settle 0; turn 10; takeover 3/1/3",
		{K: 1, M: 2}: "trim 0; turn 18; write 1; crash 0; open 5/1/1/1",
		{K: 2, M: 1}: "begintrim 0; finish 0; begin 0; begintrim 1; turn 18; cut 2/1/1; turn 19; finish 1; crash 0; open 7/0/1/1",
	} {
		if w, err := playSmall(newSmallScope(g, 1, 6, smallAll), schedule); err != nil || !w.refused {
			t.Errorf("%v: it opens: %v", g, err)
		}
	}
}

// A row was never answered, and reached as many members as it needs. One of them has damaged
// its page: the row does not count, and what was answered before does.
func TestSmallDamagedAndUnanswered(t *testing.T) {
	for g, schedule := range map[Geometry]string{
		{K: 1, M: 1}: "write 0; begintrim 1; cut 0/1; damage 3; crash 0; open 3/2/1/0",
		{K: 1, M: 2}: "begintrim 0; cut 1/1; damage 10; takeover 3/0/0",
		{K: 2, M: 1}: "begintrim 0; cut 2/1; damage 18; begin 1; takeover 7/0/1/0/1/0/2/1/5; open 7/0",
		{K: 2, M: 2}: "begintrim 0; cut 2/0; back 2/1; begintrim 1; damage 18; crash 0; open 13/2/2/2/2/2/0",
	} {
		if _, err := playSmall(newSmallScope(g, 1, 6, smallAll), schedule); err != nil {
			t.Errorf("%v: %v", g, err)
		}
	}
}
