package raid

import "testing"

// Who is vouched for holds all rows and the view, and nothing that was given up; and
// no more are than may fail.
func TestWhoIsVouchedFor(t *testing.T) {
	l := begun(t, Geometry{K: 2, M: 1}, 7)
	put(t, l, 0, 2)
	fill := func(c Col) {
		for _, r := range must(l.PendingRows(0, c, 0, make([]MissingRow, 0, 64))) {
			l.PendingRestored(0, c, r)
		}
	}
	may := func(c Col, want bool, why string) {
		t.Helper()
		if l.MayVouch(0, c) != want {
			t.Errorf("%s: it may be vouched for: %v", why, !want)
		}
	}
	erase := func(second uint32) {
		for e := (Erasure{}); l.TakeDoomed(&e); {
			l.Erased(&e, e.Members, e.Second&second)
		}
	}
	may(1, false, "nobody is to take its place")
	l.AddPending(0, 1)
	fill(1)
	may(1, false, "it is down")
	l.SetPendingUp(0, 1, true)
	may(1, false, "it does not hold the view")
	install(t, l)
	may(1, true, "it holds all")
	l.AddPending(0, 2)
	l.SetPendingUp(0, 2, true)
	install(t, l)
	may(2, false, "it lacks a row")
	fill(2)
	may(2, true, "it holds all, and nobody else was vouched for")

	// A batch fails that it was sent, and it is away when that is erased.
	var p Placement
	if !l.Reserve(2, false, &p) || p.Second != 6 {
		t.Fatalf("%+v", p)
	}
	l.Abandon(&p)
	l.SetPendingUp(0, 2, false)
	install(t, l)
	erase(2)
	l.SetPendingUp(0, 2, true)
	install(t, l)
	may(2, false, "it may hold what was given up")
	may(1, true, "what was given up is erased there")
	erase(6)
	may(2, true, "what was given up is erased there too")

	l.Vouch(0, 1)
	may(2, false, "one was vouched for, and no more may fail")
	l.SetPendingUp(0, 1, false)
	may(2, false, "one was vouched for and is down")
}
