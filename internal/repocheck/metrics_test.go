package repocheck

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestDocMetrics: metrics that the documentation and its alert rules name
// exist: a rule about a metric that does not exist never fires.
func TestDocMetrics(t *testing.T) {
	exists := indexMetrics(t)
	for _, known := range []string{"dmps_meta_leader", "dmps_volume_lost_pages", "dmps_client_corrupt_pages", "dmps_client_read_p99_ns", "dmps_server_memory_bytes"} {
		if !exists[known] {
			t.Fatalf("the index of metrics is broken: it has no %s", known)
		}
	}
	metric := regexp.MustCompile(`\bdmps_[a-z0-9_]*[a-z0-9]\b`)
	files, named := append(docFiles(t), "docs/alerts.yml"), 0
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(root(t), f))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range metric.FindAllString(string(b), -1) {
			named++
			if name := strings.TrimSuffix(m, "_"); !exists[name] && name != "dmps_client" {
				t.Errorf("%s names the metric %s, which does not exist", f, m)
			}
		}
	}
	b, err := os.ReadFile(filepath.Join(root(t), "docs/alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	sections, rules := anchors(prose(t, "docs/runbook.md")), 0
	for _, m := range regexp.MustCompile(`docs/runbook\.md#([\w-]+)`).FindAllStringSubmatch(string(b), -1) {
		rules++
		if !sections[m[1]] {
			t.Errorf("an alert leads to the section %s of the runbook, which does not exist", m[1])
		}
	}
	if alerts := strings.Count(string(b), "- alert: "); alerts != rules {
		t.Errorf("%d alerts, and %d of them lead to the runbook", alerts, rules)
	}
	if named < 20 {
		t.Errorf("only %d metrics are named in %v", named, files)
	}
}

// indexMetrics knows the names of all metrics: literals that begin with dmps_,
// names that cmd/dmps puts together with volumeDesc, and the counters of a
// client's report.
func indexMetrics(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, f := range sources(t) {
		counters := under(f.name, "client")
		ast.Inspect(f.File, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				if s := text(n); strings.HasPrefix(s, "dmps_") {
					names[s] = true
				}
			case *ast.CallExpr:
				if fun, ok := n.Fun.(*ast.Ident); ok && fun.Name == "volumeDesc" && len(n.Args) > 0 {
					names["dmps_volume_"+text(n.Args[0])] = true
				}
			case *ast.KeyValueExpr: // of asMap
				if s := text(n.Key); counters && s != "" {
					names["dmps_client_"+s] = true
				}
			case *ast.BinaryExpr: // Report: q.name+"_p99_ns"
				if s := text(n.Y); counters && strings.HasPrefix(s, "_") {
					names["dmps_client_read"+s], names["dmps_client_write"+s] = true, true
				}
			}
			return true
		})
	}
	return names
}

// text is the value of a string literal, or nothing.
func text(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	s, err := strconv.Unquote(lit.Value)
	if err != nil {
		return ""
	}
	return s
}
