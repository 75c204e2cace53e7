package state

import "testing"

// Since when a server is away is since when it was first silent; what it asked for ends with
// its life.
func TestServerIsAwaySinceItWasSilent(t *testing.T) {
	s := cluster(t, 1, 1<<30, nil)
	must(t, s, &Command{Register: &Register{ID: "s", Incarnation: 1, Addr: "tcp://h:1", MemoryTotal: 1 << 30}})
	sv := s.Servers["s"]
	for now, state := range []ServerState{ServerUp, ServerSuspect, ServerDown, ServerDown, ServerUp, ServerDown} {
		must(t, s, &Command{Now: int64(1000 + now), SetServer: &SetServer{ID: "s", Incarnation: 1, State: state}})
		if want := []int64{0, 1001, 1001, 1001, 0, 1005}[now]; sv.Away != want {
			t.Errorf("%d: %v since %d, not %d", now, state, sv.Away, want)
		}
	}
	must(t, s, &Command{Shortage: &Shortage{ID: "s", Incarnation: 1, Short: true, Wanted: 7}})
	must(t, s, &Command{Register: &Register{ID: "s", Incarnation: 2, Addr: "tcp://h:1", MemoryTotal: 1 << 30}})
	if sv.Short || sv.Wanted != 0 || sv.Away != 0 || sv.State != ServerUp {
		t.Errorf("a new life: %+v", sv)
	}
}
