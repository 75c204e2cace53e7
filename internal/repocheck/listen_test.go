package repocheck

import (
	"go/ast"
	"strings"
	"testing"
)

// listens are the ways to a listener that ends with a failed accept(2).
var listens = map[string]bool{
	"net.Listen": true, "net.ListenTCP": true, "net.ListenUnix": true, "net.ListenConfig": true, "net.FileListener": true,
	"http.ListenAndServe": true, "tls.Listen": true,
}

// TestListenersOutliveFailures: the roles get their listeners of package accept, for
// one that goes deaf when descriptors or memory are short is there for nobody, and
// looks well.
func TestListenersOutliveFailures(t *testing.T) {
	for _, f := range sources(t) {
		if under(f.name, "chaos") || under(f.name, "internal/accept") {
			continue
		}
		ast.Inspect(f.File, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := s.X.(*ast.Ident)
			if name := ""; ok {
				name = pkg.Name + "." + s.Sel.Name
				if listens[name] || strings.HasSuffix(name, ".ListenAndServe") {
					t.Errorf("%s: %s: use accept.Listen, which outlives a failed accept(2)", f.set.Position(n.Pos()), name)
				}
			}
			return true
		})
	}
}
