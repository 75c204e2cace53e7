package procstat

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	line = "42 (a ) (b) S 1 42 42 0 -1 1572864 100 0 0 0 17 23 0 0 20 0 5 0 100 1 1 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 3 10 1 0 0 0"
)

func TestParse(t *testing.T) {
	got, err := Parse([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	want := Task{ID: 42, Name: "a ) (b", State: 'S', Flags: 1572864, User: 17, System: 23, CPU: 3, Priority: 10, Policy: 1}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"", "42", "42 (x) S 1", ") 42 (", "x" + line, strings.Replace(line, " 17 23 ", " 17 -23 ", 1)} {
		if got, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%q is %+v", bad, got)
		}
	}
}

// This process, as the kernel tells it.
func TestParseSelf(t *testing.T) {
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Skip(err)
	}
	got, err := Parse(b)
	if err != nil || got.ID != os.Getpid() {
		t.Errorf("%+v, %v", got, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(line))
	f.Add([]byte(") 42 ("))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := Parse(b)
		if err == nil && !strings.Contains(string(b), "("+got.Name+")") {
			t.Errorf("%q is not the name in %q", got.Name, b)
		}
	})
}
