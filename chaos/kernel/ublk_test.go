package kernel

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestUblk runs the tests of package client/ublk that need the driver.
func TestUblk(t *testing.T) {
	dir, guest := guestDir(t)
	tests := filepath.Join(dir, "ublk.test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", tests, "dmps/client/ublk")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the tests: %v: %s", err, text)
	}
	spec := Spec{
		Cache: *cache, Guest: guest, Files: map[string]string{"/bin/ublk.test": tests},
		Argv:      []string{"/bin/ublk.test", "-test.run", "^TestGuest", "-test.short", "-test.v"},
		MemoryMiB: 512, Timeout: 6 * time.Minute, Console: t.Output(),
	}
	run(t, spec)
}
