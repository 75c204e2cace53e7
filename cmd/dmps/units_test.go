package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const unitDir = "../../docs/packaging"

// systemd understands the units, all of them together.
func TestUnitsVerify(t *testing.T) {
	verify, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze on this machine")
	}
	dir := t.TempDir()
	var names []string
	for name, text := range units(t) {
		// Programs must exist for it, and instances have a name.
		text = strings.ReplaceAll(text, "/usr/local/bin/dmps", "/bin/true")
		name = strings.Replace(name, "@.", "@swap0.", 1)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		names = append(names, filepath.Join(dir, name))
	}
	cmd := exec.Command(verify, append([]string{"--man=no", "verify"}, names...)...)
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	// It warns of what it does not know, and exits with 0.
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, dir) {
			t.Error(line)
		}
	}
}

// The command lines in the units are ones that dmps takes.
func TestUnitsCommands(t *testing.T) {
	lines := 0
	for name, text := range units(t) {
		for line := range strings.Lines(text) {
			_, args, found := strings.Cut(line, "=/usr/local/bin/dmps ")
			if !found {
				continue
			}
			lines++
			var argv []string
			for _, arg := range strings.Fields(strings.ReplaceAll(args, "%i", "swap0")) {
				if !strings.HasPrefix(arg, "$") { // somebody's own
					argv = append(argv, arg)
				}
			}
			cmd, rest, err := new(app).root().Find(argv)
			if err == nil {
				err = cmd.ParseFlags(rest)
			}
			if err == nil && cmd.Args != nil {
				err = cmd.Args(cmd, cmd.Flags().Args())
			}
			if err != nil {
				t.Errorf("%s: dmps %s: %v", name, strings.Join(argv, " "), err)
			}
		}
	}
	if lines < 4 {
		t.Errorf("%d command lines in the units", lines)
	}
}

// The manager ends the client alone. Whoever makes a call for it may wait for pages that
// only the next client brings: that one must not have to wait for it.
func TestAttachUnitKillsTheClientAlone(t *testing.T) {
	unit := units(t)["dmps-attach@.service"]
	for _, want := range []string{"\nKillMode=process\n", "\nRestart=on-failure\n", "\nMemorySwapMax=0\n"} {
		if !strings.Contains(unit, want) {
			t.Errorf("no %s", strings.TrimSpace(want))
		}
	}
}

// units are the files and their texts.
func units(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(unitDir, "*.service"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d units: %v", len(files), err)
	}
	all := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(f)] = string(b)
	}
	return all
}
