package repocheck

import (
	"go/ast"
	"go/token"
	"strings"
	"testing"
)

// mapped are the only files that may keep an address of memory as a number. Each
// says why that memory neither moves nor goes away.
var mapped = exceptions{
	"internal/uring/memory.go":    "mapped memory, which is what submissions to an io_uring get",
	"chaos/badmem/arena.go":       "a memory server's arena, which is mapped",
	"transport/regions.go":        "mapped arenas, compared and never given to anybody",
	"transport/fabric/domain.go":  "arenas that the provider has registered, and so pinned",
	"client/devicetest/arena.go":  "the distance of two places in one slice of the heap",
	"internal/memlock/memlock.go": "where the heap and the program lie, to within a mapping",
}

// An address that is kept as a number holds nothing in place: the runtime moves
// stacks, and frees what only a number points to. In a call of the system in the
// same expression it is safe, for the compiler keeps what it points to until the call
// returns. What the kernel uses after that, as an io_uring does, has to be mapped:
// uring.Memory.
func TestNoAddressIsKept(t *testing.T) {
	found := map[string]bool{}
	for _, f := range sources(t) {
		for _, at := range keptAddresses(f.File) {
			found[f.name] = true
			if mapped[f.name] == "" {
				t.Errorf("%s: the address of memory is kept as a number: the runtime may move or free it. Call the system in the same expression, or use uring.Memory", f.set.Position(at))
			}
		}
	}
	mapped.needed(t, found)
}

// keptAddresses finds uintptr(unsafe.Pointer(x)) outside of the arguments of a
// call that is named for a system call.
func keptAddresses(f *ast.File) []token.Pos {
	inCall := map[ast.Node]bool{}
	var kept []token.Pos
	ast.Inspect(f, func(n ast.Node) bool {
		c, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if isSyscall(c.Fun) {
			for _, a := range c.Args {
				inCall[a] = true
			}
		}
		if isAddress(c) && !inCall[c] {
			kept = append(kept, c.Pos())
		}
		return true
	})
	return kept
}

func isSyscall(f ast.Expr) bool {
	s, ok := f.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := s.X.(*ast.Ident)
	return ok && (pkg.Name == "unix" || pkg.Name == "syscall") && strings.Contains(s.Sel.Name, "Syscall")
}

// isAddress recognises uintptr(unsafe.Pointer(x)).
func isAddress(c *ast.CallExpr) bool {
	name, ok := c.Fun.(*ast.Ident)
	if !ok || name.Name != "uintptr" || len(c.Args) != 1 {
		return false
	}
	inner, ok := c.Args[0].(*ast.CallExpr)
	if !ok {
		return false
	}
	s, ok := inner.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := s.X.(*ast.Ident)
	return ok && pkg.Name == "unsafe" && s.Sel.Name == "Pointer"
}

// TestKeptAddresses shows that the rule bites.
func TestKeptAddresses(t *testing.T) {
	for body, want := range map[string]int{
		"c.addr = uint64(uintptr(unsafe.Pointer(&b[0])))":                    1,
		"p := uintptr(unsafe.Pointer(&b[0])); unix.Syscall(1, p, 0, 0)":      1,
		"unix.Syscall(1, uintptr(unsafe.Pointer(&b[0])), 0, 0)":              0,
		"unix.RawSyscall6(1, uintptr(unsafe.Pointer(&b[0])), 0, 0, 0, 0, 0)": 0,
		"enter(uintptr(unsafe.Pointer(&b[0])))":                              1,
		"unix.Syscall(1, at(uintptr(unsafe.Pointer(&b[0]))), 0, 0)":          1,
	} {
		if got := len(keptAddresses(parsed(t, body))); got != want {
			t.Errorf("%s: %d addresses, want %d", body, got, want)
		}
	}
}
