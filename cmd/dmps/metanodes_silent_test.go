package main

import (
	"strings"
	"testing"

	"dmps/client"
	"dmps/meta/metaclient"
)

// TestSilentNodesAreSaid: a status beside a metadata node that does not answer says so, and
// what may still fail.
func TestSilentNodesAreSaid(t *testing.T) {
	node := func(name, state string, voter bool) nodeState {
		return nodeState{Node: metaclient.Node{Name: name, Voter: voter, APIURL: "http://h"}, State: state}
	}
	up, dead := nodeUp, nodeAway
	for name, c := range map[string]struct {
		nodes []nodeState
		want  string // "": nothing
	}{
		"all answer":          {[]nodeState{node("m1", up, true), node("m2", up, true), node("m3", nodeBehind, true)}, ""},
		"one of three":        {[]nodeState{node("m1", up, true), node("m2", dead, true), node("m3", up, true)}, "no answer from metadata node m2: when one more fails, nothing can be decided"},
		"one of five":         {[]nodeState{node("m1", up, true), node("m2", dead, true), node("m3", up, true), node("m4", up, true), node("m5", up, true)}, "no answer from metadata node m2: 1 more may fail"},
		"another disk":        {[]nodeState{node("m1", up, true), node("m2", up, true), node("m3", nodeOther, true)}, "no answer from metadata node m3: when one more fails, nothing can be decided"},
		"one without a vote":  {[]nodeState{node("m1", up, true), node("m2", up, true), node("m3", up, true), node("m4", dead, false)}, "no answer from metadata node m4: 1 more may fail"},
		"two of five are not": {[]nodeState{node("m1", up, true), node("m2", dead, true), node("m3", dead, true), node("m4", up, true), node("m5", up, true)}, "no answer from metadata node m2, m3: when one more fails, nothing can be decided"},
	} {
		if got := silentNodes(c.nodes); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		var out strings.Builder
		if err := renderStatus(&out, statusReport{State: client.StateHealthy, Meta: c.nodes}, palette{}, noon); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), c.want) || c.want != "" && !strings.Contains(out.String(), nodeAway) && !strings.Contains(out.String(), nodeOther) {
			t.Errorf("%s: the status is\n%s", name, &out)
		}
	}
}
