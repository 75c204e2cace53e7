package repocheck

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// fileName is the name of a Go file, with folders or without.
var fileName = regexp.MustCompile(`[\w./-]*\w\.go\b`)

// strangers are files of others that comments name.
var strangers = map[string]bool{"mgcscavenge.go": true, "mgcpacer.go": true} // Go's runtime

// TestCommentsNameFiles: a file that a comment sends the reader to is there: beside the
// comment's own, in the folder above, or under the path that it gives.
func TestCommentsNameFiles(t *testing.T) {
	known := map[string]bool{}
	for _, f := range goFiles(t) {
		known[filepath.ToSlash(f)] = true
	}
	found := 0
	for _, f := range sources(t) {
		dir := filepath.ToSlash(filepath.Dir(f.name))
		for _, group := range f.Comments {
			for _, c := range group.List {
				if strings.HasPrefix(c.Text, "//go:") {
					continue
				}
				for _, name := range fileName.FindAllString(c.Text, -1) {
					if strangers[name] {
						continue
					}
					found++
					if !known[name] && !known[dir+"/"+name] && !known[filepath.ToSlash(filepath.Dir(dir))+"/"+name] {
						t.Errorf("%s: a comment names %s, which is not there", f.name, name)
					}
				}
			}
		}
	}
	if found == 0 {
		t.Error("no comment names a file: the test looks in the wrong place")
	}
}
