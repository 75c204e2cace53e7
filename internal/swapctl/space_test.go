package swapctl

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const swaps = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n" +
	"/dev/nbd0                               partition\t131068\t\t4096\t\t5\n" +
	"/swap\\040file                          file\t\t1024\t\t0\t\t-2\n"

func TestParseSpaces(t *testing.T) {
	got, err := parseSpaces(strings.NewReader(swaps))
	if err != nil {
		t.Fatal(err)
	}
	want := []Space{{"/dev/nbd0", 131068 << 10, 4 << 20, 5, true}, {"/swap file", 1 << 20, 0, -2, false}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"/dev/nbd0 partition 1 2\n", "/dev/nbd0 partition x 2 3\n"} {
		if got, err := parseSpaces(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is %v", bad, got)
		}
	}
}

// procOf is a /proc with this meminfo.
func procOf(t *testing.T, meminfo string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "meminfo"), []byte(meminfo), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFit(t *testing.T) {
	spaces, err := parseSpaces(strings.NewReader(swaps))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		meminfo string
		fits    bool
	}{
		{"MemTotal: 9 kB\nMemAvailable:    8192 kB\n", true},
		{"MemAvailable:    3500 kB\n", true}, // with the other space
		{"MemAvailable:    3300 kB\n", false},
		{"MemAvailable:    0 kB\n", false},
	} {
		available, err := availableIn(procOf(t, c.meminfo))
		if err != nil {
			t.Fatal(err)
		}
		fit, err := measure(spaces, "/dev/nbd0", available)
		if err != nil {
			t.Fatal(err)
		}
		if fit.Used != 4<<20 || fit.Elsewhere != 1<<20 || fit.Fits() != c.fits {
			t.Errorf("%q: %+v, fits %v", c.meminfo, fit, fit.Fits())
		}
	}
	zram := append(spaces, Space{Path: "/dev/zram0", Size: 1 << 30})
	if fit, err := measure(zram, "/dev/nbd0", 1); fit.Elsewhere != 1<<20 || err != nil {
		t.Errorf("with compressed memory: %+v, %v", fit, err)
	}
	if _, err := measure(spaces, "/dev/nbd1", 1); err == nil {
		t.Error("a device that is no swap space fits")
	}
	if _, err := availableIn(procOf(t, "MemTotal: 1 kB\n")); err == nil {
		t.Error("memory without MemAvailable")
	}
}

// The kernel names a space as swapon was told, which may be another node of the device.
func TestFind(t *testing.T) {
	spaces := []Space{{Path: "/file"}, {Path: "/gone", Device: true}, {Path: "/jail/dev/nbd0", Used: 7, Device: true}}
	numbers := map[string]uint64{"/dev/nbd0": 43, "/jail/dev/nbd0": 43, "/dev/nbd1": 44, "/file": 44}
	number := func(path string) (uint64, bool) { n, ok := numbers[path]; return n, ok }
	for path, found := range map[string]bool{"/dev/nbd0": true, "/jail/dev/nbd0": true, "/dev/nbd1": false, "/dev/nbd2": false} {
		if s := find(spaces, path, number); (s != nil) != found || s != nil && s.Used != 7 {
			t.Errorf("%s: %+v", path, s)
		}
	}
}
