package state

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"dmps/raid"
)

// follow is a client's layouts: what changed is put into what it had.
type follow map[raid.VolumeID]*raid.Layout

// take brings a volume's up to date, and gives how many groups were sent.
func (f follow) take(s *State, v *Volume) int {
	was := f[v.ID]
	if was == nil {
		f[v.ID] = s.Layout(v, v.LastLease, false)
		return len(v.Groups)
	}
	if v.Version == was.Version {
		return 0 // nobody asks
	}
	now := s.LayoutSince(v, v.LastLease, was.Version)
	sent := len(now.Groups)
	if now.Since > 0 {
		all := was.Groups
		for _, g := range now.Groups {
			all[g.ID] = g
		}
		now.Groups, now.Since = all, 0
	}
	f[v.ID] = now
	return sent
}

// strip leaves out the addresses, which clients look up of new members only.
func strip(l *raid.Layout) *raid.Layout {
	for g := range l.Groups {
		for c := range l.Groups[g].Members {
			l.Groups[g].Members[c].Addr = ""
		}
		for i := range l.Groups[g].Pending {
			l.Groups[g].Pending[i].Member.Addr = ""
		}
	}
	return l
}

// TestLayoutSince: who puts what changed into what he had, now and then or each time, has
// the layout as it is, from a node that was started again too.
func TestLayoutSince(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := New()
		each, some := follow{}, follow{}
		for range rapid.IntRange(1, 80).Draw(t, "commands") {
			c := drawCommand(t, s)
			c.Now = rapid.Int64Range(0, 1000).Draw(t, "now")
			_, _ = s.Apply(c) // or refused
			if rapid.IntRange(0, 9).Draw(t, "restart") == 0 {
				s = restarted(t, s)
			}
			for i, f := range []follow{each, some} {
				if i == 1 && rapid.IntRange(0, 4).Draw(t, "ask") > 0 {
					continue
				}
				for _, v := range s.Volumes {
					f.take(s, v)
					want := s.Layout(v, f[v.ID].Epoch, false)
					want.Unknown = f[v.ID].Unknown // no change of groups
					if d := cmp.Diff(strip(want), strip(f[v.ID])); d != "" {
						t.Fatalf("volume %s: layout (-is +followed)\n%s", v.Name, d)
					}
				}
			}
		}
	})
}

// TestLayoutSinceOfWhom: only to whom has a version that this replica knows are changes
// sent; and who asked that members be noted hears how their groups stand.
func TestLayoutSinceOfWhom(t *testing.T) {
	s := cluster(t, 6, 1<<30, nil)
	v := create(t, s, CreateVolume{Name: "v", Pages: 1000, Geometry: raid.Geometry{K: 1, M: 1}})
	must(t, s, &Command{Attach: &Attach{Name: "v", Holder: "h"}})
	must(t, s, &Command{PutReport: &PutReport{Volume: v.ID, Epoch: v.Epoch, Report: Report{State: Healthy}}})
	note := func() {
		must(t, s, &Command{Behind: &Behind{Volume: v.ID, Epoch: v.Epoch, Chunks: []raid.ChunkID{v.Groups[1].Members[0].Chunk}}})
	}
	note()
	for since, whole := range map[uint64]bool{0: true, v.Version - 1: false, v.Version: false, v.Version + 1: true} {
		l := s.LayoutSince(v, 1, since)
		if (l.Since == 0) != whole || whole != (len(l.Groups) == len(v.Groups)) || l.Since != 0 && l.Since != since {
			t.Errorf("since %d of %d: since %d, %d of %d groups", since, v.Version, l.Since, len(l.Groups), len(v.Groups))
		}
		if err := l.Validate(); err != nil {
			t.Errorf("since %d: %v", since, err)
		}
	}
	before := v.Version
	note() // it is noted already
	if l := s.LayoutSince(v, 1, before); v.Version == before || l.Since == 0 || len(l.Groups) != 1 || l.Groups[0].ID != 1 {
		t.Errorf("who asked again is sent %+v", l)
	}
	s = restarted(t, s)
	v = s.Volumes[v.ID]
	if l := s.LayoutSince(v, 1, before); l.Since != 0 || len(l.Groups) != len(v.Groups) {
		t.Errorf("a node that was started again sends %d of %d groups", len(l.Groups), len(v.Groups))
	}
}

// TestLayoutsOfLostServer counts what clients are sent until all that a lost server held is
// in sync elsewhere, with each version by itself.
func TestLayoutsOfLostServer(t *testing.T) {
	groups := 30000
	if *wholePlacement {
		groups = 500000
	}
	s := crowd(t, groups)
	f := follow{}
	total := 0
	for _, v := range s.SortedVolumes() {
		total += f.take(s, v)
		must(t, s, &Command{PutReport: &PutReport{Volume: v.ID, Epoch: v.Epoch, Report: Report{State: Healthy}}})
		f.take(s, v)
	}
	held := int(s.Servers["s007"].Chunks)
	must(t, s, &Command{SetServer: &SetServer{ID: "s007", Incarnation: 1, State: ServerDown}})
	sent, whole, batches := 0, 0, 0
	ask := func() {
		for _, v := range s.SortedVolumes() {
			if n := f.take(s, v); n > 0 {
				sent += n
				whole += len(v.Groups)
				batches++
			}
		}
	}
	for must(t, s, &Command{Heal: &Heal{Limit: 1024, Moves: 16}}).(Healed).Steps > 0 {
		ask()
	}
	for _, v := range s.SortedVolumes() {
		for g, group := range v.Groups {
			for _, m := range group.Members {
				if m.State == raid.MemberRebuilding {
					must(t, s, &Command{Rebuilt: &Rebuilt{Volume: v.ID, Epoch: v.Epoch, Chunks: []raid.ChunkID{m.Chunk}, Known: v.Version}})
					if g%4 == 0 { // some batches, as clients tell them
						ask()
					}
				}
			}
		}
		ask()
	}
	t.Logf("%d groups, %d members lost: %d layouts, %d groups sent, %d if each were whole", total, held, batches, sent, whole)
	if most := 2 * held; sent > most || batches == 0 {
		t.Errorf("%d groups were sent for %d members", sent, held)
	}
	if whole < 10*sent {
		t.Error(fmt.Sprint("whole layouts have only ", whole, " groups"))
	}
}
