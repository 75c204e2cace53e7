package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// DevConfig is the command line of `dmps dev`. Zero values leave its default.
type DevConfig struct {
	Bin          string // the dmps binary
	Dir          string // made by Start when absent; holds cluster.json, logs and state
	Meta         int
	Servers      int
	ServerMemory string // 512MiB
	Redundancy   string // rs:4+2, mirror:3, none
	Layout       string // log, linear, striped
	Size         string // 1GiB
	NBD          string // 127.0.0.1:PORT or unix:PATH
	Volume       string
	Grace        string // of the metadata service; empty: its own
	Env          []string
}

func (c DevConfig) argv() []string {
	argv := []string{c.Bin, "dev", "--dir", c.Dir}
	add := func(flag, v string) {
		if v != "" && v != "0" {
			argv = append(argv, flag, v)
		}
	}
	add("--meta", strconv.Itoa(c.Meta))
	add("--servers", strconv.Itoa(c.Servers))
	add("--server-memory", c.ServerMemory)
	add("--redundancy", c.Redundancy)
	add("--layout", c.Layout)
	add("--size", c.Size)
	add("--nbd", c.NBD)
	add("--volume", c.Volume)
	add("--grace", c.Grace)
	add("--rails", os.Getenv("DMPS_E2E_RAILS"))
	add("--transport", os.Getenv("DMPS_E2E_TRANSPORT")) // fabric+tcp, with a binary built for it
	return argv
}

// Role is a process of a cluster, as cluster.json shows it.
type Role struct {
	ID    string   `json:"id"`
	PID   int      `json:"pid"`
	API   string   `json:"api"`   // meta: URL
	Addr  string   `json:"addr"`  // server: host:port of its transport
	Admin string   `json:"admin"` // client: URL of its status and metrics
	Argv  []string `json:"argv"`  // starts it again
}

// Cluster is cluster.json.
type Cluster struct {
	NBD     string `json:"nbd"` // URI
	Meta    []Role `json:"meta"`
	Servers []Role `json:"servers"`
	Client  Role   `json:"client"`
}

// ParseCluster reads cluster.json and checks that what callers rely on is there.
func ParseCluster(b []byte) (Cluster, error) {
	var c Cluster
	if err := json.Unmarshal(b, &c); err != nil {
		return Cluster{}, fmt.Errorf("cluster.json: %w", err)
	}
	var errs []error
	if !strings.HasPrefix(c.NBD, "nbd") {
		errs = append(errs, fmt.Errorf("cluster.json: nbd is %q, want an NBD URI", c.NBD))
	}
	for _, list := range []struct {
		name  string
		roles []Role
	}{{"meta", c.Meta}, {"servers", c.Servers}, {"client", []Role{c.Client}}} {
		if len(list.roles) == 0 {
			errs = append(errs, fmt.Errorf("cluster.json: %s is empty", list.name))
		}
		for i, r := range list.roles {
			if r.PID <= 0 {
				errs = append(errs, fmt.Errorf("cluster.json: %s[%d] has pid %d", list.name, i, r.PID))
			}
			if len(r.Argv) == 0 {
				errs = append(errs, fmt.Errorf("cluster.json: %s[%d] has no argv", list.name, i))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Cluster{}, err
	}
	return c, nil
}

// Dev is a running embedded cluster.
type Dev struct {
	Cluster
	Config DevConfig

	proc    *Process
	revived []*Process // roles that Restart started
}

// StartDev starts `dmps dev` and waits until it serves. The caller stops it.
func StartDev(ctx context.Context, cfg DevConfig) (*Dev, error) {
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("start dev: %w", err)
	}
	p, err := Start(Spec{Name: "dmps dev", Argv: cfg.argv(), Env: cfg.Env, Log: filepath.Join(cfg.Dir, "dev.out")})
	if err != nil {
		return nil, err
	}
	d := &Dev{Config: cfg, proc: p}
	if err := p.WaitFor(ctx, d.refresh); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", strings.Join(cfg.argv(), " "), err), p.Stop())
	}
	return d, nil
}

// refresh reads cluster.json.
func (d *Dev) refresh() error {
	b, err := os.ReadFile(filepath.Join(d.Config.Dir, "cluster.json"))
	if err != nil {
		return err
	}
	d.Cluster, err = ParseCluster(b)
	return err
}

// PID of the `dmps dev` process.
func (d *Dev) PID() int { return d.proc.PID() }

// Done is closed when `dmps dev` has ended.
func (d *Dev) Done() <-chan struct{} { return d.proc.Done() }

// Roles lists the processes of all roles.
func (d *Dev) Roles() []Role {
	return slices.Concat(d.Meta, d.Servers, []Role{d.Client})
}

// Stop ends the cluster and reports roles that are left behind, which it then
// kills. A second call does nothing.
func (d *Dev) Stop() error {
	errs := []error{d.proc.Stop()}
	for _, r := range d.Roles() {
		if d.isRole(r) {
			errs = append(errs, fmt.Errorf("%s (pid %d) outlived dmps dev", r.ID, r.PID), syscall.Kill(r.PID, syscall.SIGKILL))
		}
	}
	for _, p := range d.revived {
		errs = append(errs, p.Stop()) // reaps it
	}
	return errors.Join(errs...)
}

// isRole reports whether the pid still belongs to the role: process ids are
// used again, and nothing but our own may be killed.
func (d *Dev) isRole(r Role) bool {
	if !Alive(r.PID) {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", r.PID))
	return err == nil && strings.Contains(string(b), d.Config.Dir)
}

// Kill sends SIGKILL to a role and waits until it is gone.
func (d *Dev) Kill(r Role) error {
	if err := syscall.Kill(r.PID, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %s (pid %d): %w", r.ID, r.PID, err)
	}
	for deadline := time.Now().Add(StopGrace); Alive(r.PID) || dying(r.PID); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s (pid %d) survives SIGKILL", r.ID, r.PID)
		}
	}
	return nil
}

// dying reports whether threads of a process outlive its first one, which is a
// zombie by then: its files and locks are still held.
func dying(pid int) bool {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return err == nil && len(threads) > 1
}

// Freeze stops a role where it stands (SIGSTOP): its sockets stay open and
// the kernel goes on acknowledging what is sent to it.
func (d *Dev) Freeze(r Role) error {
	if err := syscall.Kill(r.PID, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("freeze %s (pid %d): %w", r.ID, r.PID, err)
	}
	return nil
}

// Thaw lets a frozen role go on.
func (d *Dev) Thaw(r Role) error {
	if err := syscall.Kill(r.PID, syscall.SIGCONT); err != nil {
		return fmt.Errorf("thaw %s (pid %d): %w", r.ID, r.PID, err)
	}
	return nil
}

// Restart starts a killed role again by its argv. The new process is a child
// of this one; Stop ends it too.
func (d *Dev) Restart(r *Role) (*Process, error) {
	p, err := Start(Spec{
		Name: r.ID + " (again)",
		Argv: r.Argv,
		Env:  d.Config.Env,
		Log:  filepath.Join(d.Config.Dir, fmt.Sprintf("again-%s-%d.out", r.ID, len(d.revived))),
	})
	if err != nil {
		return nil, err
	}
	r.PID = p.PID()
	d.revived = append(d.revived, p)
	return p, nil
}

// MetaURLs is the value for --meta or DMPS_META.
func (d *Dev) MetaURLs() string {
	urls := make([]string, len(d.Meta))
	for i, m := range d.Meta {
		urls[i] = m.API
	}
	return strings.Join(urls, ",")
}

// Command prepares a dmps command that talks to this cluster.
func (d *Dev) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.Config.Bin, args...)
	cmd.Env = append(os.Environ(), "DMPS_META="+d.MetaURLs())
	cmd.WaitDelay = time.Second
	return cmd
}

// Logs gives the end of every log in the cluster's folder.
func (d *Dev) Logs(lines int) string {
	var b strings.Builder
	err := filepath.WalkDir(d.Config.Dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if ext := filepath.Ext(path); ext == ".log" || ext == ".out" {
			fmt.Fprintf(&b, "--- %s\n%s\n", path, Tail(path, lines))
		}
		return nil
	})
	if err != nil {
		fmt.Fprintf(&b, "--- %v\n", err)
	}
	return b.String()
}
