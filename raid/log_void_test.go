package raid

import "testing"

// What was given up is not settled, whatever ends after it, until it is erased.
func TestGivenUpIsNotSettled(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	var a, b, c Placement
	for _, p := range []*Placement{&a, &b} {
		if !l.Reserve(2, false, p) {
			t.Fatal("no rows")
		}
	}
	l.Abandon(&a)
	l.Commit(&b, items(&b, 0), 7)
	if !l.Reserve(2, false, &c) || c.Settled >= a.Seq {
		t.Errorf("batch %d was given up and is not erased, and %d is settled", a.Seq, c.Settled)
	}
}

// While a member is out that belongs to the group what was given up is not erased:
// first it is written that the member does not belong to it any more. And it does
// not again before it was erased there too.
func TestGivenUpWhileSomebodyIsOut(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	view := func() uint32 { return l.groups[0].view.members }
	var p Placement
	if !l.Reserve(2, false, &p) || p.Named != 7 {
		t.Fatalf("%+v", p)
	}
	l.SetUp(0, 2, false)
	l.Abandon(&p)
	var e Erasure
	if l.TakeDoomed(&e) {
		t.Errorf("rows are erased at %b, and %b belong to the group", e.Members, view())
	}
	install(t, l)
	if view() != 3 {
		t.Fatalf("the view is %b", view())
	}
	if !l.TakeDoomed(&e) || e.Members != 3 {
		t.Fatalf("rows are erased at %b", e.Members)
	}
	l.Erased(&e, 3, 0)
	if !l.Sure() {
		t.Error("something can come back that nobody holds who belongs to the group")
	}

	l.SetUp(0, 2, true)
	install(t, l)
	if view() != 3 || l.InView(0, 2) {
		t.Errorf("the view is %b although member 2 may hold what was given up", view())
	}
	if !l.TakeDoomed(&e) || e.Members != 7 {
		t.Fatalf("rows are erased at %b", e.Members)
	}
	l.Erased(&e, 7, 0)
	install(t, l)
	if view() != 7 || !l.InView(0, 2) {
		t.Errorf("the view is %b although member 2 holds nothing that matters", view())
	}
}

// What was given up can come back from a member that went away while it was erased,
// until it is written that this one does not belong to the group.
func TestGivenUpWhileSomebodyLeaves(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	var p Placement
	var e Erasure
	if !l.Reserve(2, false, &p) {
		t.Fatal("no rows")
	}
	l.Abandon(&p)
	if !l.TakeDoomed(&e) || e.Members != 7 {
		t.Fatalf("rows are erased at %b", e.Members)
	}
	l.SetUp(0, 2, false)
	l.Erased(&e, 3, 0)
	if l.Sure() || l.Doomed() == 0 {
		t.Error("what was given up cannot come back, although a member of the group may hold it")
	}
	install(t, l)
	if !l.TakeDoomed(&e) || e.Members != 3 {
		t.Fatalf("rows are erased at %b", e.Members)
	}
	l.Erased(&e, 3, 0)
	if !l.Sure() || l.Doomed() != 0 {
		t.Error("it is erased at all who belong to the group, and may come back")
	}
}

// An erasure does not count for a chunk that took the place of the one that was
// erased.
func TestErasedAtAnotherChunk(t *testing.T) {
	for name, change := range map[string]func(l *Log){
		"promoted": func(l *Log) { l.Promote(0, 1) },
		"replaced": func(l *Log) {
			l.Replace(0, 1)
			l.SetUp(0, 1, true)
		},
	} {
		l := begun(t, Geometry{K: 2, M: 1}, 7)
		l.AddPending(0, 1)
		var p Placement
		var e Erasure
		if !l.Reserve(2, false, &p) {
			t.Fatal("no rows")
		}
		l.Abandon(&p)
		if !l.TakeDoomed(&e) || e.Members != 7 || e.Second != 0 {
			t.Fatalf("rows are erased at %b and %b", e.Members, e.Second)
		}
		l.SetPendingUp(0, 1, true)
		change(l)
		l.Erased(&e, 7, 0)
		if l.Sure() || l.Doomed() == 0 {
			t.Errorf("%s: what was given up counts as erased at column 1", name)
		}
		install(t, l)
		for l.TakeDoomed(&e) {
			l.Erased(&e, e.Members, e.Second)
			install(t, l)
		}
		if !l.Sure() || l.Doomed() != 0 {
			t.Errorf("%s: it is erased at all, and %d rows wait for that", name, l.Doomed())
		}
	}
}
