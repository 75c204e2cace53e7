package state

import (
	"fmt"
	"testing"

	"dmps/raid"
)

// TestNothingNewWalksNothing: what status shows is looked up anew only for volumes that
// a command concerned.
func TestNothingNewWalksNothing(t *testing.T) {
	s := cluster(t, 30, 1<<30, nil)
	var volumes []*Volume
	for i := range 20 {
		volumes = append(volumes, create(t, s, CreateVolume{Name: fmt.Sprint("v", i), Pages: 1000, Geometry: raid.Geometry{K: 2, M: 1}, Seed: uint64(i)}))
	}
	look := func() uint64 {
		before := s.Walked()
		for _, v := range volumes {
			s.Health(v, nil)
			s.NoCare(v)
			s.StuckNow(v)
		}
		return s.Walked() - before
	}
	groups, on, id := 0, 0, volumes[0].Groups[0].Members[0].Server
	for _, v := range volumes {
		groups += len(v.Groups)
		must(t, s, &Command{Attach: &Attach{Name: v.Name, Holder: "h"}})
		must(t, s, &Command{PutReport: &PutReport{Volume: v.ID, Epoch: v.Epoch, Report: Report{State: Healthy}}})
		must(t, s, &Command{Detach: &Detach{Volume: v.ID, Epoch: v.Epoch}})
		for _, g := range v.Groups {
			if g.belongsTo(id) {
				on += len(v.Groups)
				break
			}
		}
	}
	if n := look(); n != uint64(groups) {
		t.Errorf("the first look walks %d of %d groups", n, groups)
	}
	if n := look(); n != 0 {
		t.Errorf("a second look walks %d groups", n)
	}
	must(t, s, &Command{Attach: &Attach{Name: "v3", Holder: "h"}})
	must(t, s, &Command{SetServer: &SetServer{ID: id, Incarnation: 1, MemoryTotal: 2 << 30}})
	if n := look(); n != 0 {
		t.Errorf("after a lease and a server's new size a look walks %d groups", n)
	}
	must(t, s, &Command{SetServer: &SetServer{ID: id, Incarnation: 1, State: ServerSuspect}})
	if n := look(); n != uint64(on) || on == groups {
		t.Errorf("after a server was suspected a look walks %d groups, its volumes have %d of %d", n, on, groups)
	}
	must(t, s, &Command{SetServer: &SetServer{ID: id, Incarnation: 1, State: ServerDown}})
	must(t, s, &Command{Heal: &Heal{Limit: 1, Moves: 1}})
	look()
	must(t, s, &Command{Heal: &Heal{Limit: 1, Moves: 1}})
	if n := look(); n == 0 || n > uint64(len(volumes[0].Groups)) {
		t.Errorf("after a member was replaced a look walks %d groups, its volume has %d", n, len(volumes[0].Groups))
	}
}

// BenchmarkStatus is what status and metrics ask of the state, and what is asked each
// second of volumes that nobody has attached.
func BenchmarkStatus(b *testing.B) {
	for _, groups := range crowds()[1:] {
		s := crowd(b, groups)
		for _, first := range []bool{true, false} {
			b.Run(fmt.Sprintf("groups=%d/first=%v", groups, first), func(b *testing.B) {
				for b.Loop() {
					for _, v := range s.Volumes {
						if first {
							s.index.views.outdate(v.ID)
						}
						s.Health(v, v.Report)
						s.NoCare(v)
						s.StuckNow(v)
					}
					s.Copysets()
				}
			})
		}
	}
}
