package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dmps/chaos/plan"
)

func printed(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out, diag strings.Builder
	cmd := command(&out, &diag)
	cmd.SetArgs(append([]string{"--print-plan"}, args...))
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// TestPlan: a seed is printed as a plan, which is read again as the same.
func TestPlan(t *testing.T) {
	text, err := printed(t, "--seed", "7", "--duration", "20s", "--redundancy", "mirror:3", "--without", "corrupt,fill")
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	if p.Seed != 7 || p.Servers != 5 || p.Redundancy.String() != "mirror:3" || strings.Contains(text, "corrupt") {
		t.Errorf("%v", p)
	}
	file := filepath.Join(t.TempDir(), "my.plan")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if again, err := printed(t, "--plan", file); err != nil || again != text {
		t.Errorf("read again (%v) it is\n%s", err, again)
	}
	for _, bad := range [][]string{
		{"--without", "dance"}, {"--redundancy", "rs:4+2", "--servers", "3"}, {"--redundancy", "much"}, {"--target", "moon"}, {"--meta-nodes", "2"},
		{"--load", "none"}, {"--nosuch"}, {"more"},
	} {
		if _, err := printed(t, bad...); !errors.Is(err, errUsage) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if _, err := printed(t, "--plan", file+"x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a plan that is not there: %v", err)
	}
}
