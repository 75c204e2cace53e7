package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each command that --help shows has a page, with its flags and its examples.
func TestMan(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man1")
	var errs bytes.Buffer
	if code := (&app{out: new(bytes.Buffer), err: &errs}).run([]string{"man", dir}); code != 0 {
		t.Fatalf("exit code %d: %s", code, &errs)
	}
	for name, words := range map[string][]string{
		"dmps.1":              {"Exit codes:", "dmps-attach(1)"},
		"dmps-attach.1":       {"--device", "EXAMPLE", "swap0"},
		"dmps-server-drain.1": {"drain"},
	} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, w := range words {
			if !strings.Contains(string(b), w) {
				t.Errorf("%s does not say %q", name, w)
			}
		}
	}
}
