package repocheck

import (
	"go/ast"
	"strings"
	"testing"
)

// symbols knows the exported names of every package of the module, by package
// name: "Layout", "Layout.Pages", "Conn.Submit".
type symbols struct {
	packages map[string]bool
	names    map[string]bool     // package + "." + name
	embeds   map[string][]string // package + "." + type: types of the same package that it embeds
}

func (s *symbols) has(pkg, name string) bool {
	if s.names[pkg+"."+name] {
		return true
	}
	typ, member, ok := strings.Cut(name, ".")
	if !ok {
		return false
	}
	for _, e := range s.embeds[pkg+"."+typ] {
		if s.has(pkg, e+"."+member) {
			return true
		}
	}
	return false
}

func indexSymbols(t *testing.T) *symbols {
	t.Helper()
	s := &symbols{packages: map[string]bool{}, names: map[string]bool{}, embeds: map[string][]string{}}
	for _, f := range sources(t) {
		if f.Name.Name == "main" {
			continue
		}
		s.packages[f.Name.Name] = true
		for _, d := range f.Decls {
			s.addDecl(f.Name.Name, d)
		}
	}
	return s
}

func (s *symbols) add(pkg string, parts ...string) {
	s.names[pkg+"."+strings.Join(parts, ".")] = true
}

func (s *symbols) addDecl(pkg string, d ast.Decl) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			s.add(pkg, d.Name.Name)
		} else if len(d.Recv.List) == 1 {
			s.add(pkg, typeName(d.Recv.List[0].Type), d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.ValueSpec:
				for _, n := range spec.Names {
					s.add(pkg, n.Name)
				}
			case *ast.TypeSpec:
				s.add(pkg, spec.Name.Name)
				s.addMembers(pkg, spec)
			}
		}
	}
}

func (s *symbols) addMembers(pkg string, spec *ast.TypeSpec) {
	var fields *ast.FieldList
	switch t := spec.Type.(type) {
	case *ast.StructType:
		fields = t.Fields
	case *ast.InterfaceType:
		fields = t.Methods
	default:
		return
	}
	for _, f := range fields.List {
		for _, n := range f.Names {
			s.add(pkg, spec.Name.Name, n.Name)
		}
		if len(f.Names) == 0 {
			if n := typeName(f.Type); n != "" {
				key := pkg + "." + spec.Name.Name
				s.embeds[key] = append(s.embeds[key], n)
			}
		}
	}
}

// typeName is the name of a type without pointer and type parameters; "" for
// a type of another package.
func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.StarExpr:
		return typeName(e.X)
	case *ast.IndexExpr:
		return typeName(e.X)
	case *ast.IndexListExpr:
		return typeName(e.X)
	}
	return ""
}
