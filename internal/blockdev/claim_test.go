package blockdev

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// TestOpeners finds another process that has a file open, and not this one.
func TestOpeners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if who, err := openers(path); who != "" || err != nil {
		t.Errorf("found %q, %v", who, err)
	}
	cmd := exec.Command("sleep", "60")
	cmd.Stdin = f
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if who, err := openers(path); who != strconv.Itoa(cmd.Process.Pid) || err != nil {
		t.Errorf("found %q, %v, not %d", who, err, cmd.Process.Pid)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it was killed
	if who, err := openers(path); who != "" || err != nil {
		t.Errorf("found %q, %v after its end", who, err)
	}
}
