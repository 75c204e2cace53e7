package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// mutant is one fault, as its patch file says.
type mutant struct {
	name  string
	fault string     // in words
	kills [][]string // arguments of go test; one of these runs has to fail
	hangs bool       // a run that does not end counts as failed
	why   string     // why nothing can notice it; then the runs have to pass
	files []fileDiff
}

// fileDiff is what a patch does to one file.
type fileDiff struct {
	path  string // from the root of the tree
	hunks []hunk
}

type hunk struct {
	line     int // where the old lines begin, from 0, in the file that the patch was made from
	old, new []string
}

// load reads all patches of a folder, by name.
func load(dir string) ([]mutant, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.patch"))
	if err != nil {
		return nil, fmt.Errorf("listing patches: %w", err)
	}
	var all []mutant
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			return nil, fmt.Errorf("reading a patch: %w", err)
		}
		m, err := parse(strings.TrimSuffix(filepath.Base(p), ".patch"), string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		all = append(all, m)
	}
	return all, nil
}

// parse reads a patch: lines that begin with "# " say what it is, and a unified
// diff follows.
func parse(name, text string) (mutant, error) {
	m := mutant{name: name}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	i := 0
	for ; i < len(lines) && strings.HasPrefix(lines[i], "# "); i++ {
		key, value, _ := strings.Cut(lines[i][2:], ": ")
		switch key {
		case "fault":
			m.fault = value
		case "kill":
			m.kills = append(m.kills, strings.Fields(value))
		case "hangs":
			m.hangs = true
		case "survives":
			m.why = value
		default:
			return m, fmt.Errorf("line %d: %q is not known", i+1, key)
		}
	}
	if m.fault == "" || len(m.kills) == 0 {
		return m, errors.New("it does not say what the fault is, or which test is to notice it")
	}
	for ; i < len(lines); i++ {
		if err := m.add(lines[i]); err != nil {
			return m, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	if len(m.files) == 0 {
		return m, errors.New("it changes nothing")
	}
	return m, nil
}

// add takes one line of the diff.
func (m *mutant) add(line string) error {
	var f *fileDiff
	var h *hunk
	if n := len(m.files); n > 0 {
		f = &m.files[n-1]
		if n := len(f.hunks); n > 0 {
			h = &f.hunks[n-1]
		}
	}
	switch {
	case strings.HasPrefix(line, "--- a/"):
		m.files = append(m.files, fileDiff{path: strings.TrimPrefix(line, "--- a/")})
	case strings.HasPrefix(line, "+++ b/"):
	case strings.HasPrefix(line, "@@ -") && f != nil:
		at, err := strconv.Atoi(line[4 : 4+strings.IndexAny(line[4:], ", ")])
		if err != nil {
			return fmt.Errorf("a hunk's place: %w", err)
		}
		f.hunks = append(f.hunks, hunk{line: at - 1})
	case h == nil:
		return fmt.Errorf("%q is not part of a hunk", line)
	case strings.HasPrefix(line, "-"):
		h.old = append(h.old, line[1:])
	case strings.HasPrefix(line, "+"):
		h.new = append(h.new, line[1:])
	case strings.HasPrefix(line, " "):
		h.old, h.new = append(h.old, line[1:]), append(h.new, line[1:])
	default:
		return fmt.Errorf("%q does not belong in a diff", line)
	}
	return nil
}

// apply returns the changed text. All old lines have to be there as they are: at
// their place, or else at exactly one other.
func (f *fileDiff) apply(text string) (string, error) {
	lines := strings.Split(text, "\n")
	shift := 0
	for i, h := range f.hunks {
		at, err := h.find(lines, h.line+shift)
		if err != nil {
			return "", fmt.Errorf("%s: hunk %d: %w", f.path, i+1, err)
		}
		lines = slices.Replace(lines, at, at+len(h.old), h.new...)
		shift = at - h.line + len(h.new) - len(h.old)
	}
	return strings.Join(lines, "\n"), nil
}

func (h *hunk) find(lines []string, at int) (int, error) {
	is := func(at int) bool {
		return at >= 0 && at+len(h.old) <= len(lines) && slices.Equal(lines[at:at+len(h.old)], h.old)
	}
	if is(at) {
		return at, nil
	}
	var found []int
	for i := range lines {
		if is(i) {
			found = append(found, i)
		}
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("its lines are there %d times: make the patch anew", len(found))
	}
	return found[0], nil
}
