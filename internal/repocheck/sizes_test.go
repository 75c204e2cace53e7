package repocheck

import (
	"bytes"
	"go/ast"
	"os"
	"path/filepath"
	"testing"
)

const (
	fileLines     = 600
	functionLines = 80
)

// long are functions that are longer than others may be, and why.
var long = exceptions{
	"raid/log_check.go Check": "it is to be split: one function an invariant",
}

// Files and functions are short enough to be read at once. Functions of tests may be
// longer: many are a story, or a table.
func TestSizes(t *testing.T) {
	used, generated := map[string]bool{}, map[string]bool{}
	for _, f := range sources(t) {
		if ast.IsGenerated(f.File) {
			generated[f.name] = true
			continue
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := f.set.Position(fn.End()).Line - f.set.Position(fn.Pos()).Line + 1
			if where := f.name + " " + fn.Name.Name; n > functionLines {
				used[where] = true
				if long[where] == "" {
					t.Errorf("%s: %s has %d lines, more than %d: split it along what it does", f.set.Position(fn.Pos()), fn.Name.Name, n, functionLines)
				}
			}
		}
	}
	long.needed(t, used)
	for _, file := range goFiles(t) {
		b, err := os.ReadFile(filepath.Join(root(t), file))
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(b, []byte("\n")); n > fileLines && !generated[filepath.ToSlash(file)] {
			t.Errorf("%s has %d lines, more than %d: split it along what it does", file, n, fileLines)
		}
	}
}
