package repocheck

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocSymbols: what the documentation calls by name exists.
func TestDocSymbols(t *testing.T) {
	idx := indexSymbols(t)
	if !idx.has("raid", "Geometry.Validate") || idx.has("raid", "NoSuchThing") {
		t.Fatal("the index of symbols is broken")
	}
	for _, f := range docFiles(t) {
		for _, c := range codeSpans(prose(t, f)) {
			for _, ref := range symbolRefs(c) {
				if idx.packages[ref.pkg] && !idx.has(ref.pkg, ref.name) {
					t.Errorf("%s names `%s.%s`, which does not exist", f, ref.pkg, ref.name)
				}
			}
			if repoPath.MatchString(c) && !exists(t, strings.TrimSuffix(c, "/")) {
				t.Errorf("%s names `%s`, which does not exist", f, c)
			}
		}
	}
}

// TestDocLinks: relative links lead somewhere, anchors included.
func TestDocLinks(t *testing.T) {
	for _, f := range docFiles(t) {
		text := prose(t, f)
		for _, m := range mdLink.FindAllStringSubmatch(text, -1) {
			u, err := url.Parse(m[1])
			if err != nil {
				t.Errorf("%s: link %q: %v", f, m[1], err)
				continue
			}
			if u.Scheme != "" || u.Host != "" {
				continue // the tests ask no network
			}
			target := f
			if u.Path != "" {
				target = filepath.Join(filepath.Dir(f), u.Path)
			}
			if !exists(t, target) {
				t.Errorf("%s links to %s, which does not exist", f, m[1])
				continue
			}
			if u.Fragment != "" && strings.HasSuffix(target, ".md") && !anchors(prose(t, target))[u.Fragment] {
				t.Errorf("%s links to %s: there is no such heading", f, m[1])
			}
		}
	}
}

// TestDocProse: no line numbers.
func TestDocProse(t *testing.T) {
	for _, f := range docFiles(t) {
		for _, m := range lineRef.FindAllString(prose(t, f), -1) {
			t.Errorf("%s refers to a line (%s): name a symbol instead", f, m)
		}
	}
}

func TestSymbolRefs(t *testing.T) {
	for _, c := range []struct {
		code string
		want string
	}{
		{"raid.Layout", "raid.Layout"},
		{"*raid.Layout", "raid.Layout"},
		{"transport.Conn.Submit(r)", "transport.Conn.Submit"},
		{"func(raid.Col) raid.Slot", "raid.Col raid.Slot"},
		{"cluster.json", ""},
		{"x.raid.Layout", ""},
		{"dmps status", ""},
	} {
		var got []string
		for _, r := range symbolRefs(c.code) {
			got = append(got, r.pkg+"."+r.name)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%q: got %q, want %q", c.code, s, c.want)
		}
	}
}

var (
	fence    = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	codeSpan = regexp.MustCompile("`([^`\n]+)`")
	mdLink   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	lineRef  = regexp.MustCompile(`\b[\w/]+\.go(:\d+|#L\d+|,? line \d+)`)
	heading  = regexp.MustCompile(`(?m)^#+ +(.+?) *$`)
	symbol   = regexp.MustCompile(`(?:^|[^\w./])([a-z][a-z0-9]*)\.([A-Z]\w*(?:\.[A-Z]\w*)?)`)
	repoPath = regexp.MustCompile(`^(raid|transport|server|meta|client|chaos|cmd|docs|internal)/[\w./-]*$`)
)

// prose is a Markdown file without its fenced blocks.
func prose(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root(t), file))
	if err != nil {
		t.Fatal(err)
	}
	return fence.ReplaceAllString(string(b), "")
}

func codeSpans(text string) []string {
	var spans []string
	for _, m := range codeSpan.FindAllStringSubmatch(text, -1) {
		spans = append(spans, m[1])
	}
	return spans
}

type symbolRef struct{ pkg, name string }

func symbolRefs(code string) []symbolRef {
	var refs []symbolRef
	for _, m := range symbol.FindAllStringSubmatch(code, -1) {
		refs = append(refs, symbolRef{m[1], m[2]})
	}
	return refs
}

// anchors gives the fragment of every heading, as GitHub makes them.
func anchors(text string) map[string]bool {
	drop := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	set := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		a := drop.ReplaceAllString(strings.ToLower(m[1]), "")
		set[strings.ReplaceAll(a, " ", "-")] = true
	}
	return set
}

func exists(t *testing.T, path string) bool {
	_, err := os.Stat(filepath.Join(root(t), path))
	return err == nil
}

// TestNoMergeMarkers: what a merge left undecided is in no file.
func TestNoMergeMarkers(t *testing.T) {
	base := root(t)
	for _, f := range filesWith(t, "") {
		b, err := os.ReadFile(filepath.Join(base, f))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, strings.Repeat("<", 7)+" ") || strings.HasPrefix(line, strings.Repeat(">", 7)+" ") {
				t.Errorf("%s: the marker of a merge: %s", f, strings.TrimSpace(line))
			}
		}
	}
}
