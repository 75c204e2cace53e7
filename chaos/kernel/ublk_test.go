package kernel

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"dmps/chaos/kernel/vm"
)

// TestUblk runs the tests of package client/ublk that need the driver.
func TestUblk(t *testing.T) {
	if testing.Short() {
		t.Skip("a guest takes a while")
	}
	if os.Getenv("DMPS_KERNEL") == "" {
		t.Skip("guests are run by make kernel")
	}
	if _, err := exec.LookPath(vm.Program); err != nil {
		need(t, err)
	}
	dir := t.TempDir()
	guest, err := Build(t.Context(), dir, "dmps/chaos/kernel/guest")
	if err != nil {
		t.Fatal(err)
	}
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
	r, err := spec.Run(t.Context())
	if errors.Is(err, ErrNoGuest) {
		need(t, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}
