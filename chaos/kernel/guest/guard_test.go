package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"dmps/chaos/kernel"
)

// TestRefusesHosts: whoever runs this program on a machine of their own, with
// whatever arguments, has nothing done to it.
func TestRefusesHosts(t *testing.T) {
	if err := kernel.InGuest(); err == nil {
		t.Fatal("this machine is taken for a guest")
	}
	bin := filepath.Join(t.TempDir(), "guest")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v: %s", err, out)
	}
	for _, args := range [][]string{nil, {"scenario", "boot"}, {"end", "status"}, {"plain", "0", "4096"}, {"hog", "1", "1"}} {
		cmd := exec.Command(bin, args...)
		cmd.Env = append(os.Environ(), "dmps.guest=1")
		out, _ := cmd.CombinedOutput() // the exit status is looked at
		if code := cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(string(out), "runs in a guest") {
			t.Errorf("guest %q: exit status %d: %s", args, code, out)
		}
	}
}
