package state

import (
	"fmt"
	"slices"
	"testing"

	"dmps/raid"
)

func TestTogether(t *testing.T) {
	for name, c := range map[string]struct {
		servers, rack int // servers in racks of so many; 0: no racks
		silent        []int
		down          []int
		drained       []int
		want          int
	}{
		"nobody":                       {servers: 6},
		"two of six":                   {servers: 6, silent: []int{0, 1}},
		"half":                         {servers: 6, silent: []int{0, 1, 2}},
		"more than half":               {servers: 6, silent: []int{0, 1, 2, 3}, want: 4},
		"all":                          {servers: 6, silent: []int{0, 1, 2, 3, 4, 5}, want: 6},
		"all of few":                   {servers: 3, silent: []int{0, 1, 2}},
		"half of those that live":      {servers: 8, down: []int{4, 5, 6, 7}, silent: []int{0, 1}},
		"most of those that live":      {servers: 8, down: []int{4, 5, 6, 7}, silent: []int{0, 1, 2}, want: 3},
		"a rack":                       {servers: 12, rack: 3, silent: []int{3, 4, 5}, want: 3},
		"a rack, and one more":         {servers: 12, rack: 3, silent: []int{3, 4, 5, 7}, want: 3},
		"a rack but one":               {servers: 12, rack: 3, silent: []int{3, 4}},
		"what is left of a rack":       {servers: 12, rack: 4, down: []int{4}, silent: []int{5, 6, 7}, want: 3},
		"a rack of two":                {servers: 12, rack: 2, silent: []int{2, 3}},
		"drained, and one more":        {servers: 8, drained: []int{4, 5, 6, 7}, silent: []int{0, 4, 5, 6, 7}},
		"the only rack, less than all": {servers: 12, rack: 12, silent: []int{0, 1, 2}},
	} {
		s := New()
		id := func(i int) raid.ServerID { return raid.ServerID(fmt.Sprintf("s%02d", i)) }
		for i := range c.servers {
			sv := &Server{ID: id(i), Labels: map[string]string{}}
			if c.rack > 0 {
				sv.Labels["rack"] = fmt.Sprint(i / c.rack)
			}
			s.Servers[sv.ID] = sv
		}
		for _, i := range c.down {
			s.Servers[id(i)].State = ServerDown
		}
		for _, i := range c.drained {
			s.Servers[id(i)].Draining = true
		}
		got := s.Together(func(who raid.ServerID) bool {
			return slices.ContainsFunc(c.silent, func(i int) bool { return id(i) == who })
		})
		if len(got) != c.want {
			t.Errorf("%s: %v, want %d", name, got, c.want)
		}
	}
}
