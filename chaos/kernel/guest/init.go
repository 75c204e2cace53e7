package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dmps/chaos/kernel"
)

// initialise is process 1. It returns only when the guest cannot be ended.
func initialise() error {
	status := kernel.StatusBroken
	job, err := prepare()
	if err == nil {
		status, err = run(job)
	}
	if err != nil {
		fmt.Printf("init: %v\n", err)
	}
	fmt.Printf("%s%d\n", kernel.LastWords, status)
	time.Sleep(200 * time.Millisecond) // for the serial line
	return end(status)
}

// prepare makes the guest a machine that programs can run on.
func prepare() (*kernel.Job, error) {
	// Everything is on a ramfs, so this is not for want of memory: process 1
	// must not be what drives a guest into its swap.
	debug.SetGCPercent(20)
	if err := lockMemory(); err != nil {
		return nil, err
	}
	for _, m := range []struct{ kind, at, data string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", ""},
		{"cgroup2", "/sys/fs/cgroup", ""},
		{"devpts", "/dev/pts", ""},
		// ramfs, not tmpfs: what lies there must not be swapped out.
		{"ramfs", "/tmp", ""},
		{"ramfs", "/run", ""},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return nil, fmt.Errorf("mounting %s: %w", m.at, err)
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, m.data); err != nil {
			return nil, fmt.Errorf("mounting %s: %w", m.at, err)
		}
	}
	if err := kernel.InGuest(); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(kernel.JobPath)
	if err != nil {
		return nil, fmt.Errorf("the job: %w", err)
	}
	job := new(kernel.Job)
	if err := json.Unmarshal(b, job); err != nil {
		return nil, fmt.Errorf("the job: %w", err)
	}
	for _, m := range job.Modules {
		if err := loadModule(m); err != nil {
			return nil, err
		}
	}
	for name, value := range job.Sysctl {
		path := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return nil, fmt.Errorf("setting %s: %w", name, err)
		}
	}
	if err := warm(); err != nil {
		return nil, err
	}
	if err := unix.Sethostname([]byte("guest")); err != nil {
		return nil, fmt.Errorf("naming the guest: %w", err)
	}
	if err := linkUp("lo"); err != nil {
		return nil, err
	}
	if job.RDMA {
		return job, softRoCE()
	}
	return job, nil
}

// lockMemory keeps what the caller touches out of swap space: what watches over
// a guest must be able to say why it does not get on.
func lockMemory() error {
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("locking memory: %w", err)
	}
	return nil
}

// loadModule loads name, or "name parameter=value ...".
func loadModule(line string) error {
	name, params, _ := strings.Cut(line, " ")
	code, err := os.ReadFile(filepath.Join(kernel.ModuleDir, name+".ko"))
	if err != nil {
		return fmt.Errorf("loading a module: %w", err)
	}
	if err := unix.InitModule(code, params); err != nil && err != unix.EEXIST {
		return fmt.Errorf("loading module %s: %w", line, err)
	}
	return nil
}

// warm makes the kernel patch its code for cgroups while nothing else runs. The
// emulator sometimes runs code that is half patched on another CPU: int3.
func warm() error {
	const dir = "/sys/fs/cgroup"
	if err := os.WriteFile(dir+"/cgroup.subtree_control", []byte("+memory"), 0); err != nil {
		return fmt.Errorf("cgroups: %w", err)
	}
	if err := os.Mkdir(dir+"/warm", 0o755); err != nil {
		return fmt.Errorf("cgroups: %w", err)
	}
	if err := os.WriteFile(dir+"/warm/memory.max", []byte("1048576"), 0); err != nil {
		return fmt.Errorf("cgroups: %w", err)
	}
	return nil
}

// linkUp brings a network interface up. The kernel gives lo its address.
func linkUp(name string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bringing %s up: %w", name, err)
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("bringing %s up: %w", name, err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bringing %s up: %w", name, err)
	}
	return nil
}

// run is the job, and the funeral of every process whose parent is gone.
func run(job *kernel.Job) (int, error) {
	env := append([]string{"PATH=/bin", "HOME=/tmp", "TMPDIR=/tmp"}, job.Env...)
	pid, err := syscall.ForkExec(job.Argv[0], job.Argv, &syscall.ProcAttr{
		Dir: "/tmp", Env: env, Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return kernel.StatusBroken, fmt.Errorf("starting %s: %w", job.Argv[0], err)
	}
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return kernel.StatusBroken, fmt.Errorf("waiting for %s: %w", job.Argv[0], err)
		case got != pid:
		case ws.Exited():
			return min(ws.ExitStatus(), kernel.StatusBroken), nil
		case ws.Signaled():
			return kernel.StatusBroken, fmt.Errorf("%s: %v", job.Argv[0], ws.Signal())
		}
	}
}
