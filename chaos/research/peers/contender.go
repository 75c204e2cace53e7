package peers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"dmps/chaos/e2e/rig"
	"dmps/internal/port"
)

// Contender is a server to compare.
type Contender struct {
	Name  string   // in tables and for --only
	About string   // one line: what runs
	Needs []string // programs that must be in PATH
	// Memory is about how many bytes it takes to hold a device of size bytes.
	Memory func(size int64) int64

	// start may give a Target together with an error: what it has started,
	// for the caller to stop.
	start func(ctx context.Context, site Site) (*Target, error)
}

// Site is where and how a contender is to run.
type Site struct {
	Dir   string   // of its own, on a disk: sockets, logs, state
	Shm   string   // of its own, on tmpfs: device images
	Size  int64    // bytes of the device
	Front string   // medium between fio and the contender: unix or tcp
	Dmps  string   // path of the dmps binary
	Floor []string // argv of a process that calls Floor, without its arguments
}

// Target is a running contender.
type Target struct {
	URI   string
	Roles []Role
	stop  []func() error // in reverse order of the starts
}

// Role is one kind of processes of a contender, for the accounts.
type Role struct {
	Name  string
	PIDs  []int
	Limit int64 // bytes of memory that each was told to use, 0: not told
}

// Stop ends all processes of the contender.
func (t *Target) Stop() error {
	var errs []error
	for _, f := range slices.Backward(t.stop) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// Missing lists the programs that a contender needs and that are not installed.
func (c Contender) Missing() []string {
	var missing []string
	for _, n := range c.Needs {
		if _, err := exec.LookPath(n); err != nil {
			missing = append(missing, n)
		}
	}
	return missing
}

// socket is the path that a contender serves on with Front unix.
func (s Site) socket() string { return filepath.Join(s.Dir, "nbd.sock") }

// endpoint gives the address (socket path, or host and port) that t is to serve
// on, and notes its URI.
func (t *Target) endpoint(s Site) (addr string, err error) {
	if s.Front == "unix" {
		t.URI = "nbd+unix:///?socket=" + s.socket()
		return s.socket(), nil
	}
	addr, err = t.loopback()
	t.URI = "nbd://" + addr
	return addr, err
}

// loopback is an address for one of t's processes, kept for it until t stops.
func (t *Target) loopback() (string, error) {
	p, err := port.Hold()
	if err != nil {
		return "", err
	}
	t.stop = append(t.stop, p.Release)
	return p.At("127.0.0.1"), nil
}

// launch starts one process of a contender and waits until it accepts
// connections on addr.
func (t *Target) launch(ctx context.Context, s Site, role, addr string, argv ...string) error {
	n := len(t.stop)
	p, err := rig.Start(rig.Spec{Name: filepath.Base(argv[0]), Argv: argv, Log: filepath.Join(s.Dir, fmt.Sprintf("%s-%d.log", role, n))})
	if err != nil {
		return err
	}
	t.stop = append(t.stop, p.Stop)
	t.addPID(role, p.PID())
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return p.WaitFor(ctx, func() error { return dial(addr) })
}

// startLimit is how long a process may take until it accepts connections.
const startLimit = 10 * time.Second

// dial tells whether somebody listens on a socket path or a host and port.
func dial(addr string) error {
	network := "tcp"
	if filepath.IsAbs(addr) {
		network = "unix"
	}
	c, err := net.Dial(network, addr)
	if err != nil {
		return err
	}
	return c.Close()
}

func (t *Target) addPID(role string, pids ...int) {
	for i := range t.Roles {
		if t.Roles[i].Name == role {
			t.Roles[i].PIDs = append(t.Roles[i].PIDs, pids...)
			return
		}
	}
	t.Roles = append(t.Roles, Role{Name: role, PIDs: pids})
}

// image makes a sparse file on tmpfs.
func (s Site) image() (string, error) {
	path := filepath.Join(s.Shm, "disk.img")
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	return path, errors.Join(f.Truncate(s.Size), f.Close())
}
