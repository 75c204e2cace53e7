package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dmps/chaos/plan"
	"dmps/internal/exitcode"
)

// TestChaosPlan: a seed is printed as a plan, which is read again as the same;
// ordinary help does not show the command.
func TestChaosPlan(t *testing.T) {
	code, text, diag := runCLI("chaos", "--seed", "7", "--duration", "20s", "--redundancy", "mirror:3", "--without", "corrupt,fill", "--print-plan")
	if code != 0 {
		t.Fatal(code, diag)
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
	if _, again, _ := runCLI("chaos", "--plan", file, "--print-plan"); again != text {
		t.Errorf("read again it is\n%s", again)
	}
	for _, bad := range [][]string{
		{"--without", "dance"}, {"--redundancy", "rs:4+2", "--servers", "3"}, {"--target", "moon"}, {"--meta-nodes", "2"},
		{"--plan", file + "x"},
	} {
		code, _, diag := runCLI(append([]string{"chaos", "--print-plan"}, bad...)...)
		if code == 0 || bad[0] != "--plan" && code != exitcode.Usage || !strings.HasPrefix(diag, "dmps") {
			t.Errorf("%v: exit code %d, %s", bad, code, diag)
		}
	}
	if _, help, _ := runCLI("--help"); strings.Contains(help, "chaos") {
		t.Error("help shows what is hidden")
	}
}
