package raid

import "testing"

// attemptLog is a log of one group that has begun, all members up.
func attemptLog(t *testing.T, g Geometry) *Log {
	t.Helper()
	l, err := NewLog(LogConfig{Geometry: g, Groups: 1, Rows: 16, Pages: 8})
	if err != nil {
		t.Fatal(err)
	}
	l.GuardThin()
	for c := range Col(g.Members()) {
		l.SetUp(0, c, true)
	}
	begin(l)
	return l
}

func reserve(t *testing.T, l *Log) *Placement {
	t.Helper()
	p := new(Placement)
	if !l.Reserve(1, false, p) {
		t.Fatal("nothing can be placed")
	}
	return p
}

// leave has a batch fail, whose rows some members may keep, and gives the record of the
// view that is due then.
func leave(t *testing.T, l *Log, p *Placement) View {
	t.Helper()
	l.Abandon(p)
	var v View
	if !l.TakeView(&v) {
		t.Fatal("no view is due")
	}
	return v
}

// A record that some members may have, and that is not in force, can be what the next
// client goes by. Until a newer one is, rows go only to members that both name.
func TestFailedViewGivesWayToANewerOne(t *testing.T) {
	l := attemptLog(t, Geometry{K: 2, M: 2})
	p := reserve(t, l)
	l.SetUp(0, 3, false)
	v := leave(t, l, p)
	if v.Members != 0b0111 {
		t.Fatalf("members %04b", v.Members)
	}
	l.Installed(&v, 0b0011, 0)
	l.SetUp(0, 3, true)
	if p := reserve(t, l); p.Members&(1<<3) != 0 {
		t.Errorf("a row goes to %04b, although a record without member 3 may be found", p.Members)
	} else {
		l.Abandon(p)
	}
	for c := range Col(4) {
		if l.InView(0, c) {
			t.Errorf("member %d counts as in the view, above which another may be found", c)
		}
	}
	var next View
	if !l.TakeView(&next) || next.Seq <= v.Seq {
		t.Fatalf("no newer record is due: %+v", next)
	}
	l.Installed(&next, next.To, 0)
	if !l.InView(0, 0) {
		t.Error("the newer record is in force, and member 0 not in its view")
	}
}

// A row is answered when enough of those who have it are in the view, also one that was
// placed under the view before.
func TestRowsOfAnOlderViewAreCountedByTheNewOne(t *testing.T) {
	l := attemptLog(t, Geometry{K: 2, M: 1})
	l.SetUp(0, 2, false)
	p := reserve(t, l) // to members 0 and 1
	l.SetUp(0, 2, true)
	q := reserve(t, l)
	if !l.MayCommit(p) || !l.MayCommit(q) {
		t.Fatal("nobody has left")
	}
	l.SetUp(0, 1, false)
	v := leave(t, l, q) // member 1 may keep a row of it
	if v.Members != 0b101 {
		t.Fatalf("members %03b", v.Members)
	}
	if l.MayCommit(p) {
		t.Error("a record may be found in whose view one member has the row")
	}
	l.Installed(&v, v.To, 0)
	if l.MayCommit(p) {
		t.Error("one member of the view has the row")
	}
}

// Members that miss rows may miss the same: then who is away may be the only one that
// knows of it.
func TestEnoughCountsWhoMayMissRows(t *testing.T) {
	const all = 0b111111
	for _, c := range []struct {
		name                       string
		members, whole, read, fill uint32
		lost                       uint32
		want                       bool
	}{
		{name: "all are there", members: all, whole: all, read: all, want: true},
		{name: "M are away", members: all, whole: all, read: 0b001111, want: true},
		{name: "M+1 are away", members: all, whole: all, read: 0b000111},
		{name: "one is away, one missed rows", members: all, whole: 0b111110, read: 0b011111, want: true},
		{name: "one is away, M missed rows", members: all, whole: 0b111100, read: 0b011111},
		{name: "none is away, all missed rows", members: all, read: all, want: true},
		{name: "one is away, M are being rebuilt", members: all, whole: all, read: 0b011111, fill: 0b000011},
		{name: "M are being rebuilt", members: all, whole: all, read: all, fill: 0b000011, want: true},
		{name: "M are lost, the others there", members: 0b001111, whole: 0b001111, read: 0b001111, lost: 0b110000, want: true},
		{name: "one is lost and M away", members: 0b011111, whole: 0b011111, read: 0b000111, lost: 0b100000},
		{name: "nobody of the view", members: 0b000011, whole: 0b000011, read: 0b111100},
	} {
		l, err := NewLog(LogConfig{Geometry: Geometry{K: 4, M: 2}, Groups: 1, Rows: 8, Pages: 8})
		if err != nil {
			t.Fatal(err)
		}
		l.groups[0].lost = c.lost
		l.groups[0].view = groupView{members: c.members, whole: c.whole, filling: c.fill}
		if got := l.Enough(0, c.read); got != c.want {
			t.Errorf("%s: enough: %v", c.name, got)
		}
	}
}

// Until it is known whether a note was taken back it counts neither as there, nor as
// gone: the next client may or may not rely on that member.
func TestRevokedNotesCountAsNeither(t *testing.T) {
	l := attemptLog(t, Geometry{K: 1, M: 1})
	l.SetNoted(0, 0, false, true)
	l.SetUp(0, 1, false)
	if l.Unnoted(0) != 0 {
		t.Error("member 1 is to be noted, although nobody is known to be relied on then")
	}
	l.SetNoted(0, 1, true, false)
	if l.Writable() {
		t.Error("rows go to a member alone that may still be noted")
	}
	l.SetNoted(0, 0, false, false)
	if !l.Writable() {
		t.Error("the only member that is not noted is up")
	}
	l.SetNoted(0, 1, false, true)
	if l.Writable() {
		t.Error("rows go to a member alone while the note of the other one may be gone")
	}
}

// Void rows wait for a view without those who are out. When the others are too few for
// one, those who are back join first, and have to be erased for that.
func TestErasingLetsMembersIntoTheViewThatVoidRowsWaitFor(t *testing.T) {
	l := attemptLog(t, Geometry{K: 2, M: 2})
	erase := func(e *Erasure) {
		l.Erased(e, e.Members, 0)
	}
	p := reserve(t, l)
	q := reserve(t, l)
	l.SetUp(0, 0, false)
	l.SetUp(0, 2, false)
	l.SetNoted(0, 0, true, false)
	l.SetNoted(0, 2, true, false)
	v := leave(t, l, p)
	l.Installed(&v, v.To, 0)
	if v.Members != 0b1010 {
		t.Fatalf("members %04b", v.Members)
	}
	var e Erasure
	for l.TakeDoomed(&e) {
		erase(&e)
	}
	l.SetUp(0, 0, true)
	l.SetUp(0, 2, true)
	l.SetUp(0, 1, false)
	l.Abandon(q)
	for l.TakeView(&v) { // those who are back get the record in force
		if l.Installed(&v, v.To, 0); v.Members != 0b1010 {
			t.Fatalf("a view %04b, before members 0 and 2 are clean", v.Members)
		}
	}
	if !l.TakeDoomed(&e) {
		t.Fatal("nothing is erased, and no view can be had: the group is stuck")
	}
	erase(&e)
	if !l.TakeView(&v) || v.Members != 0b1101 {
		t.Fatalf("no view of the three that are up: %04b", v.Members)
	}
	l.Installed(&v, v.To, 0)
	for l.TakeDoomed(&e) {
		erase(&e)
	}
	if void, _, _ := l.Unsettled(); void != 0 || !l.Writable() {
		t.Errorf("%d void rows are left, writable: %v", void, l.Writable())
	}
}
