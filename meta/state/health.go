package state

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
	Reserved       uint64 // bytes of memory on servers, lost members aside
}

// Health merges what the servers' states say of a volume with the last report
// of its client, which may be nil. The worse of the two wins: meta does not
// see rows that missed a member, and a client that is away sees no servers.
func (s *State) Health(v *Volume, r *Report) Health {
	is := s.survey(v)
	h := Health{
		State: Healthy, DegradedGroups: is.degraded, RedundancyLeft: is.left, Since: is.since,
		Rebuilding: is.rebuilding, Moving: is.moving, Bereft: is.bereft, Empty: is.empty, Reserved: is.reserved,
	}
	if v.Unopened {
		// Nobody wrote anything that could be gone or out of reach.
		h.RedundancyLeft, h.Bereft, h.Empty = max(h.RedundancyLeft, 0), 0, 0
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

func worse(a, b string) string {
	for _, s := range []string{Failed, Degraded} {
		if a == s || b == s {
			return s
		}
	}
	return Healthy
}
