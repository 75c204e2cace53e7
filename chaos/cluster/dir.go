package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// folder is the cluster's folder:
//
//	cluster.json   while it serves
//	run/dev.lock   held (flock) by the process that runs the cluster; its pid
//	run/ID.pid     written by each role itself
//	logs/ID.log
//	meta/ID/       state of a metadata node
//
// The last three are removed and made anew by every start: the data of an
// earlier cluster was in the memory of processes that are gone.
type folder struct {
	path string
	lock *os.File
}

// ErrBusy is returned when another living process runs a cluster in the
// folder: stop that one, or choose another folder.
var ErrBusy = errors.New("another dmps dev runs in this folder")

// ErrLeftovers is returned when roles of a cluster are still running whose
// dmps dev is gone: Config.Force ends them.
var ErrLeftovers = errors.New("processes of an earlier cluster are still running")

// takeFolder makes dir ours and empty.
func takeFolder(dir string, force bool) (_ *folder, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	d := &folder{path: abs}
	if err := d.checkOurs(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(d.run(), 0o755); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if err := d.takeLock(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.release())
		}
	}()
	if err := d.endLeftovers(force); err != nil {
		return nil, err
	}
	return d, d.reset()
}

func (d *folder) run() string              { return filepath.Join(d.path, "run") }
func (d *folder) pidFile(id string) string { return filepath.Join(d.run(), id+".pid") }
func (d *folder) logFile(id string) string { return filepath.Join(d.path, "logs", id+".log") }
func (d *folder) metaDir(id string) string { return filepath.Join(d.path, "meta", id) }

// checkOurs refuses a folder whose contents some other program made: reset
// would remove them.
func (d *folder) checkOurs() error {
	if _, err := os.Stat(filepath.Join(d.run(), "dev.lock")); err == nil {
		return nil
	}
	for _, name := range []string{"run", "logs", "meta"} {
		switch _, err := os.Lstat(filepath.Join(d.path, name)); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fmt.Errorf("cluster: %w", err)
		default:
			return fmt.Errorf("cluster: %s has a folder %q that no cluster made: choose an empty folder", d.path, name)
		}
	}
	return nil
}

func (d *folder) takeLock() error {
	f, err := os.OpenFile(filepath.Join(d.run(), "dev.lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, rerr := os.ReadFile(f.Name())
		return errors.Join(fmt.Errorf("cluster: %s: %w (pid %s): stop it with SIGTERM, or choose another folder",
			d.path, ErrBusy, strings.TrimSpace(string(holder))), rerr, f.Close())
	}
	d.lock = f
	err = f.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cluster: writing %s: %w", f.Name(), err), f.Close())
	}
	return nil
}

// release gives the folder to the next cluster. The lock file stays: it marks
// the folder as a cluster's.
func (d *folder) release() error { return d.lock.Close() }

// endLeftovers finds roles that outlived their dmps dev.
func (d *folder) endLeftovers(force bool) error {
	files, err := filepath.Glob(filepath.Join(d.run(), "*.pid"))
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	var alive []string
	for _, f := range files {
		pid, ok := pidOf(f)
		if !ok {
			continue
		}
		if !force {
			alive = append(alive, fmt.Sprintf("%s (pid %d)", strings.TrimSuffix(filepath.Base(f), ".pid"), pid))
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("cluster: ending leftover process %d: %w", pid, err)
		}
		if !goneWithin(f, killGrace) {
			return fmt.Errorf("cluster: leftover process %d survives SIGKILL", pid)
		}
	}
	if len(alive) > 0 {
		slices.Sort(alive)
		return fmt.Errorf("cluster: %s: %w: %s; end them with --force", d.path, ErrLeftovers, strings.Join(alive, ", "))
	}
	return nil
}

// reset removes what an earlier cluster left.
func (d *folder) reset() error {
	errs := []error{removeIfThere(filepath.Join(d.path, FileName))}
	stale, err := filepath.Glob(filepath.Join(d.run(), "*.pid"))
	errs = append(errs, err)
	for _, f := range stale {
		errs = append(errs, removeIfThere(f))
	}
	for _, name := range []string{"logs", "meta"} {
		p := filepath.Join(d.path, name)
		errs = append(errs, os.RemoveAll(p), os.MkdirAll(p, 0o755))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cluster: clearing %s: %w", d.path, err)
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// pidOf reads a role's pid file and reports the process when it lives and is
// that role: its command line names the pid file.
func pidOf(pidFile string) (pid int, alive bool) {
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 0 {
		return 0, false
	}
	// A zombie's command line is empty, so a dead child that its parent has
	// not waited for yet counts as gone.
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return pid, false
	}
	args := strings.Split(string(cmdline), "\x00")
	i := slices.Index(args, "--pidfile")
	return pid, i >= 0 && i+1 < len(args) && args[i+1] == pidFile
}

// isZombie reports whether a process has ended: its command line is empty, or
// it is gone.
func isZombie(pid int) bool {
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err != nil || len(cmdline) == 0
}

// killGrace is how long a process may take to vanish after SIGKILL: it has
// only to free its memory.
const killGrace = 5 * time.Second

// pollEvery is how often the state of processes is looked at.
const pollEvery = 20 * time.Millisecond

func goneWithin(pidFile string, d time.Duration) bool {
	for deadline := time.Now().Add(d); ; time.Sleep(pollEvery) {
		if _, alive := pidOf(pidFile); !alive {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}
