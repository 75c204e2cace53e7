package main

import (
	"strings"
	"testing"

	"dmps/meta/metaclient"
)

// The steps of an upgrade, as they are told on the way.
func TestUpgradeSteps(t *testing.T) {
	v1, v2 := metaclient.Build{Version: "v1", Lowest: 1, Highest: 1}, metaclient.Build{Version: "v2", Lowest: 1, Highest: 2}
	st := func(level uint32, server metaclient.Build, nodes ...metaclient.Build) *metaclient.Status {
		st := &metaclient.Status{Level: level, Servers: []metaclient.Server{{ID: "s1", Build: server}}}
		for i, b := range nodes {
			st.Meta = append(st.Meta, metaclient.Node{Name: "m" + string(rune('1'+i)), Build: b})
		}
		return st
	}
	for name, c := range map[string]struct {
		st    *metaclient.Status
		mixed bool
		want  string
	}{
		"before":                    {st(1, v1, v1, v1, v1), false, ""},
		"one has yet to say":        {st(1, v1, v1, v1, metaclient.Build{}), false, ""},
		"one is upgraded":           {st(1, v1, v2, v1, v1), true, "versions differ: dmps v2 knows levels 1 to 2: m1\nversions differ: dmps v1 knows level 1: m2, m3, server s1\nthe cluster is at level 1: install the newer version on m2, m3, then raise it to level 2 with 'dmps meta raise'"},
		"one is upgraded, one away": {st(1, v2, v2, v2, metaclient.Build{}), false, "the cluster is at level 1: install the newer version on m3, then raise it to level 2 with 'dmps meta raise'"},
		"all are upgraded":          {st(1, v2, v2, v2, v2), false, "all voters know level 2, the cluster is at level 1: raise it with 'dmps meta raise' when no older version is to come back"},
		"raised":                    {st(2, v2, v2, v2, v2), false, ""},
		"raised over a server":      {st(2, v1, v2, v2, v2), true, "versions differ: dmps v2 knows levels 1 to 2: m1, m2, m3\nversions differ: dmps v1 knows level 1: server s1\ntoo old for the cluster's level, install a newer version: server s1 (dmps v1 knows level 1)"},
	} {
		u := upgradeOf(c.st)
		if got := strings.Join(u.lines(), "\n"); got != c.want || u.Mixed != c.mixed {
			t.Errorf("%s: mixed %v, %s", name, u.Mixed, got)
		}
	}
}
