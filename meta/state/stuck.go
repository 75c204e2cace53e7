package state

import "dmps/raid"

// StuckNow is what Volume.Stuck says, as far as it is still so. Servers come back
// seconds before the next plan: healing waits for those that return last.
func (s *State) StuckNow(v *Volume) *Stuck {
	if v.Stuck == nil {
		return nil
	}
	p := &healing{s: s, c: &Heal{}, stuck: map[raid.VolumeID]*Stuck{}}
	waits := false // for room, as far as the last plan knew
	for g, group := range v.Groups {
		a := ailing{v: v, group: g}
		for col, m := range group.Members {
			switch {
			case p.missing(m):
				a.cols = append(a.cols, col)
			case s.Servers[m.Server].Draining:
				waits = true
			}
		}
		waits = len(a.cols) > 0 && len(p.replaceable(a)) > 0 || waits
	}
	if waits && v.Stuck.Room {
		return v.Stuck
	}
	return p.stuck[v.ID]
}
