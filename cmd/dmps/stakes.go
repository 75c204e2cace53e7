package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"dmps/meta/metaclient"
	"dmps/raid"
)

// stakes is what a volume stands to lose that cannot be read in full, as far as the
// metadata service knows: which members its client will believe, only that client finds
// out. The refusal of an attach and the question before a loss is accepted say the same.
type stakes struct {
	geo        raid.Geometry
	groups     int
	unreadable int        // groups of which fewer than K members are in sync and on servers that are up: pages of the others cannot be made
	columns    int        // data columns of these that are not up
	bereft     int        // of these: fewer than K are left, whoever comes back
	empty      int        // of these: none is left
	pages      uint64     // most that these columns can hold
	of         uint64     // pages of the volume
	away       []awayFrom // by server
}

// awayFrom is a server that is not up, and has members in sync.
type awayFrom struct {
	metaclient.Server
	groups int
}

// stakesOf counts with the servers that are up. Without a list of servers all are.
func stakesOf(l *raid.Layout, servers []metaclient.Server) stakes {
	s := stakes{geo: l.Geometry, groups: len(l.Groups), of: l.Pages}
	away := map[raid.ServerID]*awayFrom{}
	for _, sv := range servers {
		if sv.State == metaclient.ServerSuspect || sv.State == metaclient.ServerDown {
			away[sv.ID] = &awayFrom{Server: sv}
		}
	}
	for _, g := range l.Groups {
		holders, up, out := 0, 0, s.geo.K // data columns that are not up
		for c, m := range g.Members {
			if m.State != raid.MemberInSync {
				continue
			}
			holders++
			if a := away[m.Server]; a != nil {
				a.groups++
				continue
			}
			up++
			if c < s.geo.K {
				out--
			}
		}
		if up < s.geo.K {
			s.unreadable++
			s.columns += out
		}
		if holders < s.geo.K {
			s.bereft++
		}
		if holders == 0 {
			s.empty++
		}
	}
	if s.columns > 0 {
		s.pages = min(l.Pages, uint64(s.columns)*(l.DataSlots()/uint64(s.groups*s.geo.K)))
	}
	for _, a := range away {
		if a.groups > 0 {
			s.away = append(s.away, *a)
		}
	}
	slices.SortFunc(s.away, func(a, b awayFrom) int { return cmp.Compare(a.ID, b.ID) })
	return s
}

// lines says what cannot be read, and who may bring it back; none if there is nothing.
func (s *stakes) lines(now time.Time) (lines []string) {
	if s.unreadable > 0 {
		lines = append(lines, fmt.Sprintf("%d of %d groups cannot be read in full: fewer than %d of their %d members are on servers that are up. At stake is about %d %% of what is stored, at most %s of %s.",
			s.unreadable, s.groups, s.geo.K, s.geo.Members(), (100*s.columns+s.geo.K*s.groups-1)/(s.geo.K*s.groups), human(s.pages*raid.PageSize), human(s.of*raid.PageSize)))
	}
	if s.bereft > 0 {
		line := fmt.Sprintf("%d of them have lost more than they can bear for good, whoever comes back", s.bereft)
		if s.empty > 0 {
			line += fmt.Sprintf(". Nothing is left of %d", s.empty)
		}
		lines = append(lines, line+".")
	}
	if len(s.away) == 0 {
		return lines
	}
	var who []string
	for _, a := range s.away {
		state := a.State
		if !a.AwaySince.IsZero() {
			state += " for " + span(now.Sub(a.AwaySince))
		}
		who = append(who, fmt.Sprintf("%s (%s, members of %s)", a.ID, state, count(a.groups, "group")))
	}
	line := "Away: " + strings.Join(who, ", ") + "."
	if n := s.unreadable - s.bereft; n > 0 {
		line += fmt.Sprintf(" When they come back with what they hold, %s can be read in full again.", count(n, "group"))
	}
	return append(lines, line)
}
