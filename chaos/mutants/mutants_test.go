package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Every patch still applies, says what it is, and names tests that are there.
func TestPatchesApply(t *testing.T) {
	all, err := load("testdata")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 60 {
		t.Errorf("%d faults", len(all))
	}
	for _, dir := range []string{"testdata/fabric", "testdata/open"} {
		more, err := load(dir)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, more...)
	}
	said := make(map[string]string)
	for _, m := range all {
		if _, err := m.overlay("../..", t.TempDir()); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		if other := said[m.fault]; other != "" {
			t.Errorf("%s and %s are the same fault", m.name, other)
		}
		said[m.fault] = m.name
		for _, args := range m.kills {
			if !testExists(t, args) {
				t.Errorf("%s: there is no such test: %v", m.name, args)
			}
		}
	}
}

// testExists reports whether a run names one test of its package, or none at all.
func testExists(t *testing.T, args []string) bool {
	t.Helper()
	if len(args) < 3 || args[1] != "-run" {
		return true
	}
	name, _, _ := strings.Cut(strings.Trim(args[2], "^$"), "/")
	files, err := filepath.Glob(filepath.Join("../..", args[0], "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "func "+name+"(") {
			return true
		}
	}
	return false
}

func TestParse(t *testing.T) {
	const head = "# fault: f\n# kill: ./a -run ^TestA$\n"
	const diff = "--- a/a.go\n+++ b/a.go\n@@ -2,2 +2,1 @@\n b\n-c\n"
	m, err := parse("x", head+"# hangs: it waits\n"+diff)
	if err != nil || m.fault != "f" || len(m.kills) != 1 || len(m.kills[0]) != 3 || !m.hangs || len(m.files) != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	for text, want := range map[string]string{
		"a\nb\nc\nd":        "a\nb\nd",
		"a\na\na\nb\nc\nd":  "a\na\na\nb\nd", // elsewhere
		"a\nb\nd":           "",
		"b\nc\na\nd\nb\nc":  "", // twice, and not where it was
		"b\nb\nc\na\nb\nc!": "b\nb\na\nb\nc!",
	} {
		got, err := m.files[0].apply(text)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q became %q, %v", text, got, err)
		}
	}
	for what, text := range map[string]string{
		"without a fault":       "# kill: ./a\n" + diff,
		"without a test":        "# fault: f\n" + diff,
		"with an unknown line":  head + "# note: n\n" + diff,
		"that changes nothing":  head,
		"with a line too many":  head + diff + "x\n",
		"that begins in a hunk": head + "-c\n",
	} {
		if _, err := parse("x", text); err == nil {
			t.Errorf("a patch %s is accepted", text)
			_ = what
		}
	}
}

// What the runs say of a fault, in a module of one function and its tests.
func TestVerdicts(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module m\n\ngo 1.24\n",
		"a.go":   "package m\n\nfunc Two() int {\n\treturn 2\n}\n\nfunc unused() {}\n",
		"a_test.go": "package m\n\nimport \"testing\"\n\nfunc TestTwo(t *testing.T) {\n\tif Two() != 2 {\n\t\tt.Error(Two())\n\t}\n}\n\n" +
			"func TestThree(t *testing.T) {\n\tif Two() != 3 {\n\t\tt.Error(Two())\n\t}\n}\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	change := func(to string) string {
		return "--- a/a.go\n+++ b/a.go\n@@ -4,1 +4,1 @@\n-\treturn 2\n+\t" + to + "\n"
	}
	const two, three = "# kill: . -run ^TestTwo$\n", "# kill: . -run ^TestThree$\n"
	for name, c := range map[string]struct {
		patch string
		want  verdict
	}{
		"noticed":            {two + change("return 1"), killed},
		"not noticed":        {two + "--- a/a.go\n+++ b/a.go\n@@ -7,1 +7,1 @@\n-func unused() {}\n+func unused() { panic(1) }\n", survived},
		"nobody can notice":  {two + "# survives: it is the same\n" + change("return 1 + 1"), equivalent},
		"somebody can":       {two + "# survives: it is the same\n" + change("return 1"), noticed},
		"does not end":       {two + change("for {\n+\t}"), hung},
		"may not end":        {two + "# hangs: it goes round\n" + change("for {\n+\t}"), killed},
		"does not build":     {two + change("return \"\""), broken},
		"does not apply":     {two + strings.ReplaceAll(change("return 1"), "return 2", "return 7"), broken},
		"fails anyway":       {three + change("return 1"), broken},
		"there is no test":   {"# kill: . -run ^TestFour$\n" + change("return 1"), broken},
		"the second notices": {"# kill: . -run ^TestNone|TestTwo$/x\n" + two + change("return 1"), killed},
	} {
		m, err := parse(name, "# fault: f\n"+c.patch)
		if err != nil {
			t.Fatal(err)
		}
		b := &bench{ctx: t.Context(), root: root, limit: 20 * time.Second, sound: make(map[string]func() error)}
		if c.want == hung || name == "may not end" {
			b.limit = time.Second
		}
		if o := b.try(&m); o.verdict != c.want {
			t.Errorf("%s: %s\n%s", name, o.verdict, o.output)
		}
	}
}
