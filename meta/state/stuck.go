package state

import "dmps/raid"

// stuckView is what StuckNow found.
type stuckView struct {
	was   *Stuck // Volume.Stuck, which no command changes but by another
	fresh bool
	is    *Stuck
}

// StuckNow is what Volume.Stuck says, as far as it is still so. Servers come back
// seconds before the next plan: healing waits for those that return last.
func (s *State) StuckNow(v *Volume) *Stuck {
	if v.Stuck == nil {
		return nil
	}
	w := s.index.views.of[v.ID]
	if w == nil {
		return s.stuckNow(v)
	}
	seen := w.stuck.Load()
	if seen == nil || seen.was != v.Stuck || seen.fresh != v.fresh() {
		seen = &stuckView{v.Stuck, v.fresh(), s.stuckNow(v)}
		w.stuck.Store(seen)
	}
	return seen.is
}

func (s *State) stuckNow(v *Volume) *Stuck {
	s.index.views.walked.Add(uint64(len(v.Groups)))
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
