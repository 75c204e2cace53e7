package state

import "dmps/raid"

// States of a volume.
const (
	Healthy  = "healthy"
	Degraded = "degraded" // everything is served; fewer than M further losses are survived
	Failed   = "failed"   // some pages are gone, known or not, or out of reach
)

// Health is what status says of a volume.
type Health struct {
	State          string
	DegradedGroups uint64
	RedundancyLeft int    // further losses that the worst group survives; below 0: data is out of reach
	Since          int64  // since when a group misses a member, as far as meta knows, Unix milliseconds; 0: none does
	Rebuilding     uint64 // members that are being filled
	Moving         uint64 // pending members
	Bereft         uint64 // groups of which fewer than K members hold their data, those on servers that are away included
	Empty          uint64 // of these: groups of which no member is left
}

// Health merges what the servers' states say of a volume with the last report
// of its client, which may be nil. The worse of the two wins: meta does not
// see rows that missed a member, and a client that is away sees no servers.
func (s *State) Health(v *Volume, r *Report) Health {
	h := Health{State: Healthy, RedundancyLeft: v.Geometry.M}
	for _, g := range v.Groups {
		missing, holders := 0, 0
		h.since(g.Since)
		h.Moving += uint64(len(g.Pending))
		for _, m := range g.Members {
			sv := s.Servers[m.Server]
			alive := sv != nil && sv.Incarnation == m.Incarnation
			if m.State != raid.MemberInSync || !alive || sv.State != ServerUp {
				missing++
			}
			switch m.State {
			case raid.MemberRebuilding:
				h.Rebuilding++
			case raid.MemberInSync:
				holders++
			}
			if alive {
				h.since(sv.Away)
			}
		}
		if holders < v.Geometry.K && !v.Unopened {
			h.Bereft++
			if holders == 0 {
				h.Empty++
			}
		}
		if missing > 0 {
			h.DegradedGroups++
			h.RedundancyLeft = min(h.RedundancyLeft, v.Geometry.M-missing)
		}
	}
	if v.Unopened {
		h.RedundancyLeft = max(h.RedundancyLeft, 0) // nobody wrote anything that could be out of reach
	}
	switch {
	case h.RedundancyLeft < 0:
		h.State = Failed
	case h.DegradedGroups > 0:
		h.State = Degraded
	}
	if r != nil {
		h.DegradedGroups = max(h.DegradedGroups, r.DegradedGroups)
		h.RedundancyLeft = min(h.RedundancyLeft, r.RedundancyLeft)
		h.State = worse(h.State, r.State)
		if r.Unknown > 0 {
			h.State = Failed
		}
	}
	if v.Unknown() > 0 { // also when a client that has yet to be told reports
		h.State = Failed
	}
	return h
}

func (h *Health) since(t int64) {
	if t != 0 && (h.Since == 0 || t < h.Since) {
		h.Since = t
	}
}

func worse(a, b string) string {
	for _, s := range []string{Failed, Degraded} {
		if a == s || b == s {
			return s
		}
	}
	return Healthy
}
