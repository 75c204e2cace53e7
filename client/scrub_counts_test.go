package client

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// idleScrub is a scrub of v that nobody runs.
func idleScrub(v *Volume) *scrub {
	return &scrub{
		v: v, patience: time.Minute, rows: make([]raid.UsedRow, 0, scrubRows), servers: make(map[raid.ServerID]*ScrubServer),
		guard: scrubGuard{share: 1}, cancel: func() {}, done: make(chan struct{}),
	}
}

// Each slot is verified once, also one that is compared later because a source of
// its row was wrong.
func TestScrubCountsEachSlotOnce(t *testing.T) { virtual(testScrubCountsEachSlotOnce)(t) }

func testScrubCountsEachSlotOnce(t *testing.T) {
	g := raid.Geometry{K: 4, M: 2}
	r := newScrubRig(t, 6)
	v := r.open(r.layout(g, 256, 2, 128))
	defer closeTest(t, v)
	fill(t, v, rand.New(rand.NewPCG(1, 1)))
	slots := slotsInUse(v)
	hurt := 0
	seen := map[raid.Index]bool{}
	for _, p := range slots {
		if p.grp == 0 && p.col == 1 && !seen[p.row.Index] && hurt < 5 {
			seen[p.row.Index] = true
			r.flip(v.layout.Groups[p.grp].Members[p.col], p.row.Index, raid.HeaderSize, 100)
			hurt++
		}
	}
	st := scrubNow(t, v, ScrubOptions{})
	if !st.Complete() || int(st.BadSlots) != hurt || int(st.Repaired) != hurt {
		t.Fatalf("%d slots are wrong: %+v", hurt, st)
	}
	sum := uint64(0)
	for _, s := range st.Servers {
		sum += s.Slots
	}
	if int(st.SlotsVerified) != len(slots) || int(sum) != len(slots) {
		t.Errorf("of %d slots %d are verified, %d by server", len(slots), st.SlotsVerified, sum)
	}
}

// A slot that was wrong and is filled counts as repaired when it was found right,
// and not before.
func TestScrubProvesRepairs(t *testing.T) { virtual(testScrubProvesRepairs)(t) }

func testScrubProvesRepairs(t *testing.T) {
	r := newScrubRig(t, 3)
	v := r.open(r.layout(raid.Geometry{K: 2, M: 1}, 64, 1, 100))
	defer closeTest(t, v)
	fill(t, v, rand.New(rand.NewPCG(1, 1)))
	at := slotsInUse(v)[0]
	s := idleScrub(v)
	filled := func() []scrubSlot {
		t.Helper()
		again, err := s.awaitRepair(t.Context())
		if err != nil || len(again) != 1 || s.status.Repaired != 0 {
			t.Fatalf("%d filled slots are to be looked at, %d are repaired, %v", len(again), s.status.Repaired, err)
		}
		s.pending = s.pending[:0]
		return again
	}
	v.mu.Lock()
	s.pending = []scrubSlot{{grp: at.grp, row: at.row, col: at.col, ref: v.member(at.grp, at.col).ref, bad: true}}
	v.mu.Unlock()
	again := filled()
	r.flip(v.layout.Groups[at.grp].Members[at.col], at.row.Index, raid.HeaderSize, 100)
	if err := s.verifyAgain(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if s.status.Repaired != 0 || len(s.pending) != 1 {
		t.Fatalf("it is wrong again: %d repaired, %d to be looked at", s.status.Repaired, len(s.pending))
	}
	again = filled() // by the rebuild driver
	if err := s.verifyAgain(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if s.status.Repaired != 1 || len(s.pending) != 0 {
		t.Errorf("it is right: %d repaired, %d to be looked at", s.status.Repaired, len(s.pending))
	}
}

// What a scrub found wrong, and was stopped before it could look again, is not
// known to be repaired.
func TestScrubStoppedWithWrongSlots(t *testing.T) { virtual(testScrubStoppedWithWrongSlots)(t) }

func testScrubStoppedWithWrongSlots(t *testing.T) {
	r := newScrubRig(t, 3)
	v := r.open(r.layout(raid.Geometry{K: 2, M: 1}, 256, 1, 300))
	defer closeTest(t, v)
	fill(t, v, rand.New(rand.NewPCG(1, 1)))
	at := slotsInUse(v)[0]
	r.flip(v.layout.Groups[at.grp].Members[at.col], at.row.Index, raid.HeaderSize, 100)
	if err := v.StartScrub(ScrubOptions{Rate: 100 << 10}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return v.Report().Scrub.BadSlots == 1 })
	v.StopScrub()
	if st := v.Report().Scrub; st.Complete() || st.Repaired != 0 || st.Unrepairable != 1 {
		t.Errorf("%+v", st)
	}
}

// What is found of a member that has left meanwhile says nothing of the one that
// took its place.
func TestScrubJudgesWhomItAsked(t *testing.T) { virtual(testScrubJudgesWhomItAsked)(t) }

func testScrubJudgesWhomItAsked(t *testing.T) {
	r := newScrubRig(t, 4)
	l := r.layout(raid.Geometry{K: 2, M: 1}, 64, 1, 100) // s3 is the spare
	m := newFakeMeta(l)
	v := r.open(l, func(c *Config) { c.Meta, c.Lease = m, Lease{TTL: time.Second, Renew: 10 * time.Millisecond} })
	defer closeTest(t, v)
	version := fill(t, v, rand.New(rand.NewPCG(1, 1)))
	s := idleScrub(v)
	list, _, err := s.list(0, 0)
	if err != nil || len(list.parts) != 3 {
		t.Fatal(err)
	}
	s.ask(context.Background(), list)
	for _, p := range list.parts {
		if p.err != nil || p.res.Failed != nil {
			t.Fatalf("column %d: %v, %v", p.col, p.res.Failed, p.err)
		}
	}
	m.replaceWith("s0", "s3", r.servers["s3"].Incarnation())
	waitFor(t, m.healed)
	waitFor(t, func() bool { return v.Report().State == StateHealthy })
	list.parts[0].res.Failed = []transport.RebuildFailure{{Row: 0, Reason: transport.RebuildChecksum, Col: 0}}
	s.judge(list)
	if s.status.BadSlots != 0 || v.Report().State != StateHealthy {
		t.Errorf("%d slots of the new member are wrong, %s", s.status.BadSlots, v.Report().State)
	}
	verifyVersions(t, v, version)
}

// Two copies that are sound and contradict each other: nobody knows which is right,
// and one is kept.
func TestScrubKeepsTheLastCopy(t *testing.T) { virtual(testScrubKeepsTheLastCopy)(t) }

func testScrubKeepsTheLastCopy(t *testing.T) {
	r := newScrubRig(t, 2)
	v := r.open(r.layout(raid.Geometry{K: 1, M: 1}, 64, 1, 100))
	defer closeTest(t, v)
	version := fill(t, v, rand.New(rand.NewPCG(1, 1)))
	at := slotsInUse(v)[0]
	r.rewrite(v.layout.Groups[at.grp].Members[at.col], at.row.Index, func(h *raid.Header) { h.Settled++ })
	st := scrubNow(t, v, ScrubOptions{})
	if st.BadSlots == 0 || st.Repaired+st.Unrepairable != st.BadSlots {
		t.Errorf("%+v", st)
	}
	if rep := v.Report(); rep.LostPages != 0 || rep.State == StateFailed {
		t.Errorf("%d pages are lost, %s", rep.LostPages, rep.State)
	}
	verifyVersions(t, v, version)
}
