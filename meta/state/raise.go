package state

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"dmps/meta/level"
)

// Raise has the cluster use what a higher level brings. Nodes that do not know it end
// when they meet it. There is no way down.
type Raise struct {
	To level.Level `json:"to"`
	By string      `json:"by,omitempty"` // version of the leader, for those that are too old
}

// Knows reports whether the cluster has a level: what came with it may be written, and
// is to be carried out its way.
func (s *State) Knows(l level.Level) bool { return s.Level >= l }

func (s *State) raise(c *Raise) *Refusal {
	var old []string
	for _, n := range slices.SortedFunc(maps.Values(s.Nodes), func(a, b *Node) int { return cmp.Compare(a.ID, b.ID) }) {
		if !n.Build.Knows(c.To) {
			old = append(old, fmt.Sprintf("%s (%v)", n.Name, n.Build))
		}
	}
	switch {
	case c.To < s.Level:
		return refuse(Invalid, "the cluster is at level %d, which is never lowered", s.Level)
	case c.To == s.Level:
		return nil
	case len(old) > 0:
		return refuse(LevelUnknown, "not all metadata nodes know level %d: %s", c.To, strings.Join(old, ", "))
	}
	s.note(Event{Kind: EventLevelRaised, Count: uint64(c.To)}, "the cluster was raised from level %d to %d, with dmps %s: older versions cannot take part any more", s.Level, c.To, c.By)
	s.Level, s.LevelBy = c.To, c.By
	s.touched.Root = true
	return nil
}
