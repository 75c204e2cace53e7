package state

import (
	"strings"
	"testing"

	"dmps/raid"
)

// TestSaysWhyServersTakeNothing: a volume that finds too few servers is told of those that
// drain, are short of memory, or are away, each by its reason.
func TestSaysWhyServersTakeNothing(t *testing.T) {
	s := cluster(t, 5, 1<<30, nil)
	s.Servers["s00"].Draining, s.Servers["s01"].Draining = true, true
	s.Servers["s02"].Short = true
	s.Servers["s03"].State = ServerDown
	_, err := s.Apply(&Command{CreateVolume: &CreateVolume{Name: "v", Pages: 256, Geometry: raid.Geometry{K: 1, M: 1}}})
	if err == nil || !strings.Contains(err.Error(), "the 1 servers that take chunks are in 1; of the others 1 not up, 2 being drained, 1 short of memory: start more servers") {
		t.Errorf("%v", err)
	}
}
