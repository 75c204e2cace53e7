package repocheck

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// root is the folder of the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatalf("%s is not the root of the repository: %v", dir, err)
	}
	return dir
}

// goFiles and docFiles list files relative to the root.
func goFiles(t *testing.T) []string  { return filesWith(t, ".go") }
func docFiles(t *testing.T) []string { return filesWith(t, ".md") }

func filesWith(t *testing.T, suffix string) []string {
	t.Helper()
	base := root(t)
	var files []string
	err := filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != base && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || name == "bench-out") {
			return fs.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(name, suffix) {
			rel, err := filepath.Rel(base, path)
			if err != nil {
				return err
			}
			files = append(files, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// source is a Go file that is no test.
type source struct {
	name string // with slashes, relative to the root
	*ast.File
	set *token.FileSet
}

// sources parses all Go files that are no tests. Without type checking that takes
// milliseconds, and no dependency.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	for _, file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, filepath.Join(root(t), file), nil, parser.SkipObjectResolution|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, source{filepath.ToSlash(file), f, set})
	}
	return all
}

// parsed is a function body, as a file.
func parsed(t *testing.T, body string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "a.go", "package a\nfunc f() {\n"+body+"\n}\n", parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// exceptions of a rule: where it may be broken, and why.
type exceptions map[string]string

// needed demands that each exception was used.
func (e exceptions) needed(t *testing.T, used map[string]bool) {
	t.Helper()
	for where := range e {
		if !used[where] {
			t.Errorf("%s breaks no rule: take it off the list", where)
		}
	}
}
