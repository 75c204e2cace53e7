package state

import (
	"cmp"
	"fmt"
	"slices"

	"dmps/raid"
)

// Removed is the result of RemoveServer.
type Removed struct {
	Members int // that are lost
	Losses  []Loss
}

// Loss is what a volume loses with a server.
type Loss struct {
	Volume         string // name
	Members        uint64 // on the server, in sync
	GroupsLost     uint64 // groups whose data cannot be rebuilt without it
	GroupsAway     uint64 // groups whose data can be rebuilt without it only if servers that are away come back
	RedundancyLeft int    // further losses that the worst of these groups survives with the servers that are up; below 0: data is out of reach or gone
}

// Losses says what the volumes would lose if a server did not come back, by
// name of the volume. Who is away holds nothing before it is back.
func (s *State) Losses(id raid.ServerID) []Loss {
	var out []Loss
	for refs := s.heldBy(id); len(refs) > 0; {
		v := s.Volumes[refs[0].Volume]
		l := Loss{Volume: v.Name, RedundancyLeft: v.Geometry.M}
		for ; len(refs) > 0 && refs[0].Volume == v.ID; refs = refs[1:] {
			if g := v.Groups[refs[0].Group]; !refs[0].Pending && g.Members[refs[0].Col].State == raid.MemberInSync {
				l.Members++
				s.loses(&l, v, g, id)
			}
		}
		if r := v.Report; r != nil && r.DegradedRows > 0 && r.LostPages == 0 && l.Members > 0 {
			// Members that are up may miss rows: only the client knows.
			l.RedundancyLeft = min(l.RedundancyLeft, r.RedundancyLeft)
		}
		if l.Members > 0 {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b Loss) int { return cmp.Compare(a.Volume, b.Volume) })
	return out
}

// loses adds what a volume loses with a group's member on a server.
func (s *State) loses(l *Loss, v *Volume, g *Group, id raid.ServerID) {
	if v.fresh() {
		return // nobody wrote anything
	}
	var silent []raid.ServerID // its client notices first
	if v.Lease != nil && v.Report != nil {
		silent = v.Report.Suspect
	}
	others, up := 0, 0
	for _, m := range g.Members {
		if m.State != raid.MemberInSync || m.Server == id {
			continue
		}
		others++
		if s.Servers[m.Server].State == ServerUp && !slices.Contains(silent, m.Server) {
			up++
		}
	}
	l.RedundancyLeft = min(l.RedundancyLeft, up-v.Geometry.K)
	switch {
	case others < v.Geometry.K:
		l.GroupsLost++
	case up < v.Geometry.K:
		l.GroupsAway++
	}
}

func lossText(losses []Loss) string {
	text := ""
	for _, l := range losses {
		text += fmt.Sprintf("; volume %s loses %d members", l.Volume, l.Members)
		switch {
		case l.GroupsLost > 0:
			text += fmt.Sprintf(", and with them the data of %d groups for good", l.GroupsLost)
		case l.GroupsAway > 0:
			text += fmt.Sprintf(": the data of %d groups is gone unless servers that are away come back", l.GroupsAway)
		case l.RedundancyLeft < 0:
			text += ", and other members miss rows: data may be out of reach"
		default:
			text += fmt.Sprintf(", and can lose %d more", l.RedundancyLeft)
		}
	}
	return text
}
