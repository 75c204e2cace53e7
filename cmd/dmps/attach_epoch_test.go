package main

import (
	"path/filepath"
	"testing"

	"dmps/internal/exitcode"
)

// A unit that starts an attach again and again, which this machine refuses each time,
// uses up no epoch of the volume.
func TestRefusedAttachSpendsNoEpoch(t *testing.T) {
	s := startService(t, 3)
	s.run(0, "created", "volume", "create", "v", "--size", "16MiB", "--redundancy", "mirror:2")
	for range 3 {
		s.run(exitcode.Failure, "page buffers", "attach", "v", "--allow-swappable", "--arena", "256TiB",
			"--nbd", "unix:"+filepath.Join(t.TempDir(), "s"), "--admin", "")
	}
	if _, l, err := s.c.Volume(t.Context(), "v"); err != nil || l.Epoch != 0 {
		t.Errorf("three refused attaches: epoch %d, %v", l.Epoch, err)
	}
}
