// Command guestrun boots a guest, runs one program in it and ends with the
// program's exit status:
//
//	go run ./chaos/kernel/cmd/guestrun -file /bin/dmps=bin/dmps -- ./some-static-program --flag
//	go run ./chaos/kernel/cmd/guestrun -program bash -- bash -c 'ls /dev'
//
// The program is put at /bin of the guest; its output is the console's. Exit
// code 125: no guest could be run; 124: the guest hung; 123: it panicked or
// vanished.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"dmps/chaos/kernel"
	"dmps/chaos/kernel/image"
	"dmps/chaos/kernel/vm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code, err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "guestrun:", err)
	}
	os.Exit(code)
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

func run(ctx context.Context) (int, error) {
	const none = 125
	var files, programs, modules, disks list
	s := kernel.Spec{Console: os.Stdout, Files: make(map[string]string), Env: []string{"TERM=dumb"}}
	flag.StringVar(&s.Cache, "cache", "bin/kernel", "`folder` in which the kernel is kept")
	flag.StringVar(&s.Meta, "kernel", "", "Debian `package` of the kernel; default "+image.Cloud+", with -rdma "+image.Full)
	flag.BoolVar(&s.RDMA, "rdma", false, "give the guest a soft RoCE device, rxe0 at "+kernel.RDMAAddr)
	flag.IntVar(&s.MemoryMiB, "memory", 512, "memory of the guest in `MiB`")
	flag.IntVar(&s.CPUs, "cpus", 2, "CPUs of the guest")
	flag.DurationVar(&s.Timeout, "timeout", 5*time.Minute, "how long the guest may take")
	flag.Var(&files, "file", "`GUEST=HERE`: a file for the guest; may be repeated")
	flag.Var(&programs, "program", "`name` of a program of this machine for the guest, with its libraries; may be repeated")
	flag.Var(&modules, "module", "`name` of a kernel module, and its parameters; may be repeated")
	flag.Var(&disks, "disk", "raw `image` that is /dev/vda, and so on; may be repeated")
	flag.Parse()
	if flag.NArg() == 0 {
		return none, fmt.Errorf("name a program to run in the guest")
	}
	for _, f := range files {
		in, here, ok := strings.Cut(f, "=")
		if !ok {
			return none, fmt.Errorf("-file %s: use GUEST=HERE", f)
		}
		s.Files[in] = here
	}
	s.Programs, s.Modules, s.Disks = programs, modules, disks
	s.Argv = flag.Args()
	if _, err := os.Stat(s.Argv[0]); err == nil && strings.Contains(s.Argv[0], "/") {
		in := "/bin/" + filepath.Base(s.Argv[0])
		s.Linked = map[string]string{in: s.Argv[0]}
		s.Argv[0] = in
	} else if !strings.HasPrefix(s.Argv[0], "/") {
		s.Argv[0] = "/bin/" + s.Argv[0]
	}
	dir, err := os.MkdirTemp("", "guestrun-")
	if err != nil {
		return none, fmt.Errorf("a folder to build in: %w", err)
	}
	defer os.RemoveAll(dir) // a rest of it does no harm
	if s.Guest, err = kernel.Build(ctx, dir, "dmps/chaos/kernel/guest"); err != nil {
		return none, err
	}
	r, err := s.Run(ctx)
	if err != nil {
		return none, err
	}
	switch r.Outcome {
	case vm.Exited:
		return r.Status, nil
	case vm.TimedOut:
		return 124, r.Err()
	default:
		return 123, r.Err()
	}
}
