package blockdev

import (
	"os"
	"path/filepath"
	"testing"
)

func TestUnthrottle(t *testing.T) {
	root := t.TempDir()
	if err := unthrottle(root, "nbd0"); err != nil {
		t.Errorf("a kernel that does not throttle: %v", err)
	}
	file := filepath.Join(root, "block", "nbd0", "queue", "wbt_lat_usec")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("2000"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unthrottle(root, "nbd0"); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(file); string(b) != "0" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	// What cannot be set is an error.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unthrottle(root, "nbd0"); err == nil {
		t.Error("a setting that is a folder was set")
	}
}
