package state

import (
	"slices"

	"dmps/raid"
)

// A switch that restarts, a power supply or the leader's own network silence many servers
// in one go, and most come back with all that they hold. To fill it all anew elsewhere costs
// more than it saves: the others would be busy with it for hours. So who fell silent together
// with many is given more time (Ceph's mon_osd_down_out_subtree_limit and
// mon_osd_min_in_ratio stand for the same).
const (
	fewServers = 4 // living servers, below which the loss of most of them is nothing special
	fewInRack  = 3 // likewise in a rack or zone
)

// Together gives those of the silent servers that fell silent with too many others: more than
// half of those that are not down, or all of a rack or zone, of several. silent says it of
// servers that are not down.
func (s *State) Together(silent func(raid.ServerID) bool) (out []raid.ServerID) {
	type tally struct{ living, silent int }
	var all tally
	domains := map[Level]map[string]*tally{LevelRack: {}, LevelZone: {}}
	var quiet []*Server
	for _, sv := range s.SortedServers() {
		if sv.State == ServerDown || sv.Draining && sv.Chunks == 0 {
			continue // who was drained is stopped on purpose: that says nothing of the others
		}
		is := silent(sv.ID)
		count := []*tally{&all}
		for level, of := range domains {
			name := sv.domain(level)
			if of[name] == nil {
				of[name] = &tally{}
			}
			count = append(count, of[name])
		}
		for _, t := range count {
			t.living++
			if is {
				t.silent++
			}
		}
		if is {
			quiet = append(quiet, sv)
		}
	}
	most := all.living >= fewServers && all.silent*2 > all.living
	for _, sv := range quiet {
		whole := func(l Level) bool {
			t := domains[l][sv.domain(l)]
			return len(domains[l]) > 1 && t.living >= fewInRack && t.silent == t.living
		}
		if most || whole(LevelRack) || whole(LevelZone) {
			out = append(out, sv.ID)
		}
	}
	return slices.Clip(out)
}
