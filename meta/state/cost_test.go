package state

import (
	"fmt"
	"testing"

	"dmps/raid"
)

// crowd is 1000 servers with so many groups of 4+2 at least.
func crowd(t testing.TB, groups int) *State {
	s := New()
	do := func(c Command) {
		if _, err := s.Apply(&c); err != nil {
			t.Fatal(err)
		}
		s.TakeTouched()
	}
	for i := range 1000 {
		do(Command{Register: &Register{ID: raid.ServerID(fmt.Sprintf("s%03d", i)), Incarnation: 1, Addr: "a", MemoryTotal: 512 << 30}})
	}
	for i := 0; groups > 0; i++ {
		name := fmt.Sprint("v", i)
		do(Command{CreateVolume: &CreateVolume{Name: name, Pages: 200 << 30 / raid.PageSize, Geometry: raid.Geometry{K: 4, M: 2}, Seed: uint64(i)}})
		do(Command{Attach: &Attach{Name: name, Holder: "h"}})
		v, _ := s.VolumeByName(name)
		groups -= len(v.Groups)
	}
	return s
}

func createAndDelete(t testing.TB, s *State, seed uint64) {
	for _, c := range []Command{
		{CreateVolume: &CreateVolume{Name: "another", Pages: 64 << 30 / raid.PageSize, Geometry: raid.Geometry{K: 4, M: 2}, Seed: seed}},
		{DeleteVolume: &DeleteVolume{Name: "another"}},
	} {
		if _, err := s.Apply(&c); err != nil {
			t.Fatal(err)
		}
	}
	for _, sv := range s.Servers {
		for c := range sv.Freeing {
			s.forget(sv, c)
		}
	}
	s.TakeTouched()
}

// TestCostOfOthersGroups: what a new volume and a plan cost does not depend on the
// groups that they do not concern.
func TestCostOfOthersGroups(t *testing.T) {
	few, many := crowd(t, 1000), crowd(t, 30000)
	cost := func(s *State) float64 {
		return testing.AllocsPerRun(3, func() { createAndDelete(t, s, 1) })
	}
	if a, b := cost(few), cost(many); b > 1.5*a {
		t.Errorf("a volume costs %.0f allocations beside 1000 groups, and %.0f beside 30,000", a, b)
	}
	id := raid.ServerID("s007")
	must(t, many, &Command{SetServer: &SetServer{ID: id, Incarnation: 1, State: ServerDown}})
	held := int(many.Servers[id].Chunks)
	if n := len(many.concerned(&Heal{})); n != held || held == 0 {
		t.Errorf("a plan looks at %d groups, the lost server holds members of %d", n, held)
	}
	p := many.planHeal(&Heal{Limit: 10000})
	if len(p.steps) != held {
		t.Errorf("%d of %d members get a replacement", len(p.steps), held)
	}
	if n, most := len(p.pick.orders), substitutes*len(p.setsOf(id)); n > most {
		t.Errorf("the servers were put in order %d times, at most %d are needed", n, most)
	}
}

// setsOf lists the copysets with a server.
func (p *healing) setsOf(id raid.ServerID) (out []string) {
	for key, set := range p.s.index.home {
		for _, sv := range set.servers {
			if sv == id {
				out = append(out, key)
			}
		}
	}
	return out
}

func crowds() []int {
	if *wholePlacement {
		return []int{0, 500000}
	}
	return []int{0, 50000}
}

// BenchmarkCreateVolume makes and deletes 64 GiB on 1000 servers, beside others' groups
// (500,000 with -placement.all).
func BenchmarkCreateVolume(b *testing.B) {
	for _, groups := range crowds() {
		s := crowd(b, groups)
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				createAndDelete(b, s, 1)
			}
		})
	}
}

// BenchmarkPlanLostServer plans replacements for all members of one of 1000 servers.
func BenchmarkPlanLostServer(b *testing.B) {
	for _, groups := range crowds()[1:] {
		s := crowd(b, groups)
		sv := s.Servers["s007"]
		sv.State, sv.Away = ServerDown, 1
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) {
			for b.Loop() {
				if p := s.planHeal(&Heal{Limit: 1 << 20}); len(p.steps) != int(sv.Chunks) {
					b.Fatal(len(p.steps))
				}
			}
			b.ReportMetric(float64(sv.Chunks), "members")
		})
	}
}
