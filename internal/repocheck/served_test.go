package repocheck

import (
	"go/ast"
	"go/token"
	"testing"
)

// waits are calls that can wait for a block device: of a process that serves the
// device they would wait for the process itself, and killed it could not end.
var waits = map[string]bool{
	"swapctl.Format": true, "swapctl.On": true, "swapctl.Off": true,
	"unix.SYS_SWAPON": true, "unix.SYS_SWAPOFF": true, "unix.BLKRRPART": true, "unix.BLKFLSBUF": true, "unix.BLKDISCARD": true,
	"unix.Mount": true, "unix.Unmount": true, "unix.O_EXCL": true, "os.O_EXCL": true,
}

// commands are those of drivers that wait for requests.
var commands = map[string]bool{"cmdStopDev": true}

// opens are calls that open or write a file that may be a device, or a setting of one.
var opens = map[string]bool{
	"os.Open": true, "os.OpenFile": true, "os.Create": true, "os.ReadFile": true, "os.WriteFile": true,
	"unix.Open": true, "unix.Openat": true, "unix.Openat2": true, "unix.Creat": true,
}

// elsewhere are functions that only a process of its own may call: they are named in
// maps of calls (blockdev.Call), and in each other, and nowhere else.
var elsewhere = map[string]bool{
	"callFormat": true, "callSwapon": true, // cmd/dmps
	"callTune": true, "callUntuned": true, "tune": true, "untuned": true, // client/nbddev
	"callStop": true,                     // client/ublk
	"claim":    true, "unthrottle": true, // internal/blockdev
}

// apart are the functions that make such calls nevertheless, and why they may.
var apart = exceptions{
	"cmd/dmps/devicecalls.go callFormat": "it is called in a process of its own",
	"cmd/dmps/devicecalls.go callSwapon": "it is called in a process of its own",
	"cmd/dmps/detach.go endSwap":         "detach is another process than the attach that serves",
	"client/nbddev/queue.go tune":        "it is called in a process of its own",
	"client/nbddev/queue.go read":        "it is called in a process of its own",
	"client/nbddev/held.go backend":      "the kernel tells it from memory",
	"client/ublk/driver.go callStop":     "it is called in a process of its own",
	"client/ublk/driver.go openDriver":   "the control device has no pages",
	"client/ublk/driver.go open":         "the character device of the server has no pages",
	"client/ublk/driver.go alive":        "it is a file of proc",
}

// The process that serves a block device makes no call that can wait for it: in the
// packages of front ends nothing opens a file, in the commands nothing uses a device,
// but in the functions that apart lists. Others ask package blockdev for a process that
// makes the call.
func TestServerWaitsForNoDevice(t *testing.T) {
	used := map[string]bool{}
	for _, f := range sources(t) {
		if !under(f.name, "client") && !under(f.name, "cmd") {
			continue
		}
		// Only front ends know a device.
		strict := under(f.name, "client/ublk") || under(f.name, "client/nbddev")
		for _, w := range waiting(f.File, strict) {
			where := f.name + " " + w.function
			used[where] = true
			if apart[where] == "" {
				t.Errorf("%s: %s in %s can wait for the device that this process serves: make it a call of another process (blockdev.Apart)", f.set.Position(w.at), w.name, w.function)
			}
		}
	}
	apart.needed(t, used)
}

// What another process does for the one that serves is not called by that one itself.
func TestCallsAreMadeElsewhere(t *testing.T) {
	for _, f := range sources(t) {
		if !under(f.name, "client/ublk") && !under(f.name, "client/nbddev") && !under(f.name, "internal/blockdev") && !under(f.name, "cmd/dmps") {
			continue
		}
		for _, w := range madeHere(f.File) {
			t.Errorf("%s: %s calls %s, which can wait for the device that this process serves: use blockdev.Apart", f.set.Position(w.at), w.function, w.name)
		}
	}
}

// madeHere finds calls of functions of elsewhere, but for those within a function of
// elsewhere or within a map of calls.
func madeHere(f *ast.File) []wait {
	var found []wait
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv == nil && elsewhere[fn.Name.Name] {
			continue // a variable of a package is a map of calls
		}
		ast.Inspect(fn, func(n ast.Node) bool {
			c, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if id, ok := c.Fun.(*ast.Ident); ok && elsewhere[id.Name] && !parameter(fn, id.Name) {
				found = append(found, wait{fn.Name.Name, id.Name, id.Pos()})
			}
			return true
		})
	}
	return found
}

// parameter reports whether a function has a parameter of that name.
func parameter(fn *ast.FuncDecl, name string) bool {
	for _, field := range fn.Type.Params.List {
		for _, id := range field.Names {
			if id.Name == name {
				return true
			}
		}
	}
	return false
}

type wait struct {
	function, name string
	at             token.Pos
}

// waiting finds the calls and constants in f. strict: and everything that opens.
func waiting(f *ast.File, strict bool) []wait {
	var found []wait
	for _, d := range f.Decls {
		function := "no function"
		if fn, ok := d.(*ast.FuncDecl); ok {
			function = fn.Name.Name
		}
		ast.Inspect(d, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok && strict && function != "no function" && commands[id.Name] {
				found = append(found, wait{function, id.Name, id.Pos()})
			}
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if pkg, ok := s.X.(*ast.Ident); ok {
				if name := pkg.Name + "." + s.Sel.Name; waits[name] || strict && opens[name] {
					found = append(found, wait{function, name, s.Pos()})
				}
			}
			return true
		})
	}
	return found
}

// TestMadeHere shows that the rule bites.
func TestMadeHere(t *testing.T) {
	for body, want := range map[string]int{
		"callSwapon(nil)": 1,
		"tune(root, 3)":   1,
		"if err := unthrottle(a, b); err != nil { }":  1,
		"calls := map[string]Call{\"a\": callFormat}": 0,
		"f.on.claim(ctx, path)":                       0,
		"blockdev.Apart(ctx, \"tune\", root)":         0,
	} {
		if got := len(madeHere(parsed(t, body))); got != want {
			t.Errorf("%s: %d calls, want %d", body, got, want)
		}
	}
}

// TestWaiting shows that the rule bites.
func TestWaiting(t *testing.T) {
	for body, want := range map[string][2]int{ // in a command, in a front end
		"swapctl.On(path, 1)":                          {1, 1},
		"a.swapoff(swapctl.Off)":                       {1, 1},
		"os.OpenFile(path, os.O_RDWR|os.O_EXCL, 0)":    {1, 2},
		"os.WriteFile(queue, nil, 0)":                  {0, 1},
		"unix.Open(path, unix.O_RDONLY|unix.O_EXCL)":   {1, 2},
		"unix.Syscall(unix.SYS_IOCTL, unix.BLKRRPART)": {1, 1},
		"blockdev.Claim(ctx, path)":                    {0, 0},
		"d.about(id, cmdStopDev)":                      {0, 1},
		"os.Stat(path)":                                {0, 0},
	} {
		f := parsed(t, body)
		if got := [2]int{len(waiting(f, false)), len(waiting(f, true))}; got != want {
			t.Errorf("%s: %v calls, want %v", body, got, want)
		}
	}
}
