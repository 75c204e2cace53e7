package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"dmps/raid"
	"dmps/transport/mem"
)

// fill writes version 1 of all pages.
func fill(t testing.TB, v *Volume, r *rand.Rand) []uint64 {
	t.Helper()
	version := make([]uint64, v.Size()/raid.PageSize)
	for p := 0; p < len(version); {
		n := min(1+r.IntN(40), len(version)-p)
		b := make([]byte, n*raid.PageSize)
		for i := range n {
			version[p+i] = 1
			stamp(b[i*raid.PageSize:][:raid.PageSize], p+i, 1)
		}
		if _, err := v.WriteAt(b, int64(p)*raid.PageSize); err != nil {
			t.Fatal(err)
		}
		p += n
	}
	return version
}

func scrubNow(t testing.TB, v *Volume, o ScrubOptions) ScrubStatus {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	st, err := v.Scrub(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if (st.SlotsSkipped > 0) != (st.SkippedReason != "") {
		t.Errorf("%d slots were skipped, because %q", st.SlotsSkipped, st.SkippedReason)
	}
	return st
}

// clean demands that a scrub finds nothing.
func clean(t testing.TB, v *Volume) {
	t.Helper()
	st := scrubNow(t, v, ScrubOptions{})
	if !st.Complete() || st.BadSlots != 0 || st.Repaired != 0 || st.Unrepairable != 0 || int(st.SlotsVerified) != len(slotsInUse(v)) || st.RowsDone != st.RowsTotal {
		t.Fatalf("%d slots in use: %+v", len(slotsInUse(v)), st)
	}
}

// TestScrubFindsAndRepairs flips bytes in up to M members of any rows, in pages
// and headers, data and parity: all are found, filled again and counted by
// server, and a second scrub finds nothing.
func TestScrubFindsAndRepairs(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 1, M: 1}, {K: 1, M: 2}, {K: 2, M: 1}, {K: 4, M: 2}} {
		t.Run(g.String(), virtual(func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %#x", seed)
			rnd := rand.New(rand.NewPCG(seed, 1))
			r := newScrubRig(t, 7)
			v := r.open(r.layout(g, 512, 3, uint32(512*3/2/3/g.K+64)))
			defer closeTest(t, v)
			version := fill(t, v, rnd)
			clean(t, v)
			total := uint64(0)
			for range 3 {
				type rowKey struct {
					grp raid.GroupID
					i   raid.Index
				}
				hurt := map[rowKey]int{}
				want := map[raid.ServerID]uint64{}
				flips := uint64(0)
				slots := slotsInUse(v)
				rnd.Shuffle(len(slots), func(i, j int) { slots[i], slots[j] = slots[j], slots[i] })
				for _, p := range slots[:len(slots)/10] {
					if hurt[rowKey{p.grp, p.row.Index}] == g.M {
						continue
					}
					hurt[rowKey{p.grp, p.row.Index}]++
					hb := raid.HeaderBytes(g, p.col)
					m := v.layout.Groups[p.grp].Members[p.col]
					r.flip(m, p.row.Index, hb, rnd.IntN(raid.PageSize+hb))
					want[m.Server]++
					flips++
				}
				st := scrubNow(t, v, ScrubOptions{})
				total += flips
				if !st.Complete() || st.BadSlots != flips || st.Repaired != flips || st.Unrepairable != 0 {
					t.Fatalf("%d flips: %+v", flips, st)
				}
				for _, s := range st.Servers {
					if s.Bad != want[s.Server] || s.Problem != "" {
						t.Errorf("%d flips at %s: %+v", want[s.Server], s.Server, s)
					}
				}
				clean(t, v)
			}
			rep := v.Report()
			sum := int64(0)
			for _, n := range rep.BadSlots {
				sum += n
			}
			if rep.State != StateHealthy || rep.RedundancyLeft != g.M || uint64(sum) != total || rep.Scrub == nil || rep.LastScrub == nil || rep.LastScrub.Running {
				t.Errorf("%+v", rep)
			}
			verifyVersions(t, v, version)
			if err := v.check(); err != nil {
				t.Error(err)
			}
		}))
	}
}

// TestScrubLosesNothingSilently flips more than M members of a row: the scrub
// says that it cannot repair, the report that pages are lost, reads that they are.
func TestScrubLosesNothingSilently(t *testing.T) { virtual(testScrubLosesNothingSilently)(t) }

func testScrubLosesNothingSilently(t *testing.T) {
	r := newScrubRig(t, 6)
	g := raid.Geometry{K: 4, M: 2}
	v := r.open(r.layout(g, 256, 2, 128))
	defer closeTest(t, v)
	fill(t, v, rand.New(rand.NewPCG(1, 1)))
	slots := slotsInUse(v)
	for _, p := range slots {
		if p.grp == slots[0].grp && p.row.Index == slots[0].row.Index && p.col < 3 {
			r.flip(v.layout.Groups[p.grp].Members[p.col], p.row.Index, raid.HeaderSize, 100)
		}
	}
	st := scrubNow(t, v, ScrubOptions{})
	if st.BadSlots != 3 || st.Unrepairable == 0 || st.Repaired+st.Unrepairable != 3 {
		t.Errorf("%+v", st)
	}
	if rep := v.Report(); rep.State != StateFailed || rep.LostPages == 0 {
		t.Errorf("%+v", rep)
	}
}

// TestScrubUnderLoad scrubs without pause while pages are written, cleaned and
// read: what it finds is what was flipped, in pages that stay.
func TestScrubUnderLoad(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 1, M: 2}, {K: 4, M: 2}} {
		t.Run(g.String(), virtual(func(t *testing.T) {
			r := newScrubRig(t, 6)
			v := r.open(r.layout(g, 512, 2, uint32(512*5/4/2/g.K+96)))
			defer closeTest(t, v)
			version := fill(t, v, rand.New(rand.NewPCG(1, 1)))
			flips := uint64(0)
			for i, p := range slotsInUse(v) {
				if i%50 == 0 {
					r.flip(v.layout.Groups[p.grp].Members[p.col], p.row.Index, raid.HeaderBytes(g, p.col), i)
					flips++
				}
			}
			stop := make(chan struct{})
			wait := loadOn(t, v, 4, stop, version)
			found := uint64(0)
			for begun := time.Now(); time.Since(begun) < 500*time.Millisecond; {
				st := scrubNow(t, v, ScrubOptions{})
				// A slot that a read has found bad is a hole until it is filled again,
				// and a scrub that comes by meanwhile has to skip it.
				holes := uint64(v.Report().Counters["corrupt_pages"])
				if st.SlotsSkipped > holes || st.Unrepairable > 0 || st.Repaired != st.BadSlots {
					t.Errorf("%d slots were found bad by reads: %+v", holes, st)
				}
				found += st.BadSlots
			}
			close(stop)
			version = wait()
			// The load overwrote some before anybody looked, and read others.
			if found > flips || uint64(v.Report().Counters["corrupt_pages"])+found == 0 {
				t.Errorf("found %d of %d flips", found, flips)
			}
			// The cleaner may still move rows.
			if st := scrubNow(t, v, ScrubOptions{}); !st.Complete() || st.BadSlots != 0 || st.SlotsVerified == 0 {
				t.Errorf("%+v", st)
			}
			verifyVersions(t, v, version)
			if err := v.check(); err != nil {
				t.Error(err)
			}
		}))
	}
}

// TestScrubWithMemberDown: what cannot be looked at is counted, and the rest
// is scrubbed and repaired all the same.
func TestScrubWithMemberDown(t *testing.T) { virtual(testScrubWithMemberDown)(t) }

func testScrubWithMemberDown(t *testing.T) {
	g := raid.Geometry{K: 4, M: 2}
	r := newScrubRig(t, 6)
	v := r.open(r.layout(g, 256, 2, 128))
	defer closeTest(t, v)
	version := fill(t, v, rand.New(rand.NewPCG(1, 1)))
	onDown, flips := uint64(0), uint64(0)
	for i, p := range slotsInUse(v) {
		m := v.layout.Groups[p.grp].Members[p.col]
		if m.Server == "s2" {
			onDown++
		} else if i%31 == 0 && p.col < 4 {
			r.flip(m, p.row.Index, raid.HeaderSize, 7)
			flips++
		}
	}
	r.hosts["s2"].Down(true)
	for v.Report().State == StateHealthy {
		time.Sleep(time.Millisecond)
	}
	st := scrubNow(t, v, ScrubOptions{})
	if st.Complete() || st.SlotsSkipped < onDown || st.BadSlots != flips || st.Repaired != flips || st.Unrepairable != 0 {
		t.Errorf("%d slots are down, %d flips: %+v", onDown, flips, st)
	}
	for _, s := range st.Servers {
		if s.Server == "s2" && (s.Skipped != onDown || s.Problem == "" || s.Slots != 0) {
			t.Errorf("%+v", s)
		}
	}
	if want := "s2: " + errNoSession.Error(); st.SkippedReason != want {
		t.Errorf("because %q, not %q", st.SkippedReason, want)
	}
	r.hosts["s2"].Down(false)
	for v.Report().State != StateHealthy {
		time.Sleep(time.Millisecond)
	}
	clean(t, v)
	verifyVersions(t, v, version)
}

// TestScrubMemberFails: a member that freezes, or goes away and comes back,
// in the middle of a scrub is skipped, and taken for bad by nobody.
func TestScrubMemberFails(t *testing.T) {
	for name, fail := range map[string]func(*mem.Host, bool){"freezes": (*mem.Host).Stall, "goes away": (*mem.Host).Down} {
		t.Run(name, virtual(func(t *testing.T) {
			g := raid.Geometry{K: 2, M: 1}
			r := newScrubRig(t, 3)
			v := r.open(r.layout(g, 512, 2, 200))
			defer closeTest(t, v)
			v.scrubPatience = 200 * time.Millisecond
			version := fill(t, v, rand.New(rand.NewPCG(1, 1)))
			if err := v.StartScrub(ScrubOptions{Rate: 4 << 20}); err != nil { // about 0.8 s
				t.Fatal(err)
			}
			for v.Report().Scrub.RowsDone < 30 {
				time.Sleep(time.Millisecond)
			}
			fail(r.hosts["s1"], true)
			for v.Report().Scrub.SlotsSkipped == 0 {
				time.Sleep(time.Millisecond)
			}
			fail(r.hosts["s1"], false)
			for v.Report().Scrub.Running {
				time.Sleep(time.Millisecond)
			}
			if st := v.Report().Scrub; st.Complete() || st.BadSlots != 0 || st.Unrepairable != 0 || st.Ended != "" {
				t.Errorf("%+v", st)
			}
			for v.Report().State != StateHealthy {
				time.Sleep(time.Millisecond)
			}
			v.scrubPatience = scrubPatience
			clean(t, v)
			verifyVersions(t, v, version)
		}))
	}
}

// TestScrubRelayout replaces a member while a slow scrub runs.
func TestScrubRelayout(t *testing.T) { virtual(testScrubRelayout)(t) }

func testScrubRelayout(t *testing.T) {
	g := raid.Geometry{K: 2, M: 1}
	r := newScrubRig(t, 4)
	l := r.layout(g, 512, 3, 160)
	for i := range l.Groups { // s3 is the spare
		for c := range l.Groups[i].Members {
			id := fmt.Sprint("s", (i+c)%3)
			m := &l.Groups[i].Members[c]
			m.Server, m.Addr, m.Incarnation = raid.ServerID(id), id, r.servers[id].Incarnation()
		}
	}
	m := newFakeMeta(l)
	v := r.open(l, func(c *Config) { c.Meta, c.Lease = m, Lease{TTL: time.Second, Renew: 10 * time.Millisecond} })
	defer closeTest(t, v)
	version := fill(t, v, rand.New(rand.NewPCG(1, 1)))
	if err := v.StartScrub(ScrubOptions{Rate: 4 << 20}); err != nil { // about 0.8 s
		t.Fatal(err)
	}
	if err := v.StartScrub(ScrubOptions{}); !errors.Is(err, ErrScrubRuns) {
		t.Error(err)
	}
	for v.Report().Scrub.RowsDone < 30 {
		time.Sleep(time.Millisecond)
	}
	m.replaceWith(string("s0"), "s3", r.servers["s3"].Incarnation())
	for !m.healed() || v.Report().Scrub.Running {
		time.Sleep(time.Millisecond)
	}
	st := *v.Report().Scrub
	if st.BadSlots != 0 || st.Unrepairable != 0 || st.Ended != "" || st.SlotsVerified == 0 {
		t.Errorf("%+v", st)
	}
	clean(t, v)
	verifyVersions(t, v, version)
}

// replaceWith moves the members of a server to another one.
func (m *fakeMeta) replaceWith(lost, to string, inc raid.Incarnation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.layout.Groups {
		for c := range m.layout.Groups[i].Members {
			if o := &m.layout.Groups[i].Members[c]; string(o.Server) == lost {
				m.chunk++
				*o = raid.Member{Server: raid.ServerID(to), Addr: to, Incarnation: inc, Chunk: m.chunk, State: raid.MemberRebuilding}
			}
		}
	}
	m.layout.Version++
}

// TestScrubEnds: by itself, on demand, with its context, with the volume, and
// with the lease.
func TestScrubEnds(t *testing.T) { virtual(testScrubEnds)(t) }

func testScrubEnds(t *testing.T) {
	g := raid.Geometry{K: 1, M: 1}
	r := newScrubRig(t, 2)
	l := r.layout(g, 512, 1, 640)
	v := r.open(l)
	fill(t, v, rand.New(rand.NewPCG(1, 1)))
	slow := ScrubOptions{Rate: 100 << 10} // twenty seconds
	begin := func() {
		t.Helper()
		if err := v.StartScrub(slow); err != nil {
			t.Fatal(err)
		}
	}
	v.StopScrub() // none
	begin()
	begun := time.Now()
	v.StopScrub()
	if st := v.Report().Scrub; st.Running || st.Ended == "" || st.Complete() || v.Report().LastScrub != nil {
		t.Errorf("%+v", st)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	if _, err := v.Scrub(ctx, slow); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	cancel()
	if _, err := v.Scrub(t.Context(), ScrubOptions{Rate: -1}); err == nil {
		t.Error("a rate below 0")
	}
	begin()
	v.fence(errors.New("test"))
	for v.Report().Scrub.Running {
		time.Sleep(time.Millisecond)
	}
	if _, err := v.Scrub(t.Context(), slow); !errors.Is(err, ErrFenced) {
		t.Error(err)
	}
	closeTest(t, v)

	l.Epoch, l.FirstEpoch = 2, false
	v = r.open(l)
	begin()
	closeTest(t, v)
	if time.Since(begun) > 10*time.Second {
		t.Errorf("ending took %v", time.Since(begun))
	}
	if err := v.StartScrub(slow); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// TestScrubRate: the rate is kept within 10 % below, and about above.
func TestScrubRate(t *testing.T) { virtual(testScrubRate)(t) }

func testScrubRate(t *testing.T) {
	g := raid.Geometry{K: 2, M: 1}
	r := newScrubRig(t, 3)
	v := r.open(r.layout(g, 512, 1, 400))
	defer closeTest(t, v)
	fill(t, v, rand.New(rand.NewPCG(1, 1)))
	const rate = 8 << 20
	begun := time.Now()
	st := scrubNow(t, v, ScrubOptions{Rate: rate})
	took := time.Since(begun).Seconds()
	for _, s := range st.Servers {
		if most := 1.1*rate*took + rate*scrubHold.Seconds(); float64(s.Bytes) > most {
			t.Errorf("%s read %d bytes in %v s, more than %.0f", s.Server, s.Bytes, took, most)
		}
	}
	// A loaded machine is slower; not by much.
	if want := float64(int64(st.RowsDone)*scrubRowBytes(g)) / rate; took > 3*want+1 {
		t.Errorf("took %v s, not about %v", took, want)
	}
}

// Volumes without redundancy are scrubbed too: nothing can be repaired, and
// pages that stay in place have no tags to compare.
func TestScrubWithoutRedundancy(t *testing.T) { virtual(testScrubWithoutRedundancy)(t) }

func testScrubWithoutRedundancy(t *testing.T) {
	r := newScrubRig(t, 2)
	v := r.open(r.layout(raid.Geometry{K: 1}, 128, 2, 128))
	defer closeTest(t, v)
	fill(t, v, rand.New(rand.NewPCG(1, 1)))
	clean(t, v)
	p := slotsInUse(v)[5]
	r.flip(v.layout.Groups[p.grp].Members[p.col], p.row.Index, raid.HeaderSize, 3)
	st := scrubNow(t, v, ScrubOptions{})
	if st.BadSlots != 1 || st.Unrepairable != 1 || v.Report().LostPages != 1 {
		t.Errorf("%+v %+v", st, v.Report())
	}
	f := newFakeNet(3)
	w := openTest(t, f, f.layout(raid.LayoutStriped, raid.Geometry{K: 1}, 900, 3, 300))
	defer closeTest(t, w)
	if err := w.StartScrub(ScrubOptions{}); !errors.Is(err, ErrNoScrub) {
		t.Error(err)
	}
}

// Servers that do not verify are skipped, not believed.
func TestScrubRefused(t *testing.T) {
	f := newFakeNet(3)
	v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 64))
	defer closeTest(t, v)
	fill(t, v, rand.New(rand.NewPCG(1, 1)))
	st := scrubNow(t, v, ScrubOptions{})
	if st.Complete() || st.SlotsVerified != 0 || int(st.SlotsSkipped) != len(slotsInUse(v)) || st.Servers[0].Problem == "" {
		t.Errorf("%+v", st)
	}
}

func TestNextScrub(t *testing.T) {
	const week = 7 * 24 * time.Hour
	now := time.Date(2030, 1, 31, 0, 0, 0, 0, time.UTC)
	early, late := func(n int64) int64 { return n - 1 }, func(int64) int64 { return 0 }
	for _, c := range []struct {
		name  string
		last  *ScrubStatus
		begun time.Time
		n     func(int64) int64
		want  time.Duration // from now
	}{
		{"never", nil, now, late, week},
		{"never, spread", nil, now, early, week - week/scrubSpread},
		{"yesterday", &ScrubStatus{Finished: now.Add(-24 * time.Hour)}, now, late, week - 24*time.Hour},
		{"overdue", &ScrubStatus{Finished: now.Add(-3 * week)}, now, late, scrubSettling},
		{"overdue, spread", &ScrubStatus{Finished: now.Add(-3 * week)}, now, early, scrubSettling + week/scrubSpread/2},
		{"incomplete", &ScrubStatus{Finished: now, SlotsSkipped: 3}, now.Add(-week), late, week / scrubAgain},
		{"clock went back", &ScrubStatus{Finished: now.Add(9 * week)}, now, late, week},
	} {
		if got := nextScrub(c.last, c.begun, week, now, c.n).Sub(now); got.Round(time.Second) != c.want.Round(time.Second) {
			t.Errorf("%s: in %v, not %v", c.name, got, c.want)
		}
	}
}

// TestScrubSchedule: a volume that is attached with an interval is scrubbed by
// itself, again and again, and what an earlier client did counts.
func TestScrubSchedule(t *testing.T) { virtual(testScrubSchedule)(t) }

func testScrubSchedule(t *testing.T) {
	r := newScrubRig(t, 2)
	l := r.layout(raid.Geometry{K: 1, M: 1}, 64, 1, 128)
	last := &ScrubStatus{Started: time.Now().Add(-time.Hour), Finished: time.Now().Add(-time.Hour)}
	v := r.open(l, func(c *Config) { c.ScrubEvery, c.LastScrub = 50*time.Millisecond, last })
	defer closeTest(t, v)
	if got := v.Report().LastScrub; got != last {
		t.Errorf("%+v", got)
	}
	for deadline, seen := time.Now().Add(20*time.Second), map[time.Time]bool{}; len(seen) < 3; {
		if time.Now().After(deadline) {
			t.Fatal("not scrubbed three times in 20 s")
		}
		seen[v.Report().LastScrub.Finished] = true
		time.Sleep(time.Millisecond)
	}
}
