package peers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"dmps/chaos/e2e/rig"
)

// startNbdServer starts nbd-server as a daemon: without that (-d) it serves
// one connection and ends. So it is no child of ours, and is found and
// stopped by its pid file.
func startNbdServer(ctx context.Context, s Site) (*Target, error) {
	t := &Target{}
	addr, err := t.endpoint(s)
	if err != nil {
		return t, err
	}
	img, err := s.image()
	if err != nil {
		return t, err
	}
	conf := "[generic]\n"
	tcp := addr
	if s.Front == "unix" {
		conf += "unixsock = " + addr + "\n"
		// It listens on TCP besides, and so needs a port of its own there.
		if tcp, err = t.loopback(); err != nil {
			return t, err
		}
		t.URI = "nbd+unix:///bench?socket=" + addr
	} else {
		t.URI += "/bench"
	}
	host, port, err := net.SplitHostPort(tcp)
	if err != nil {
		return t, err
	}
	conf += fmt.Sprintf("listenaddr = %s\nport = %s\n[bench]\nexportname = %s\n", host, port, img)
	confFile, pidFile := filepath.Join(s.Dir, "nbd-server.conf"), filepath.Join(s.Dir, "nbd-server.pid")
	if err := os.WriteFile(confFile, []byte(conf), 0o644); err != nil {
		return t, err
	}
	p, err := rig.Start(rig.Spec{Name: "nbd-server", Argv: []string{"nbd-server", "-C", confFile, "-p", pidFile}, Log: filepath.Join(s.Dir, "nbd-server.log")})
	if err != nil {
		return t, err
	}
	<-p.Done() // it has gone into the background, or failed
	pid, err := waitPID(ctx, pidFile)
	if err != nil {
		return t, fmt.Errorf("%w; nbd-server said:\n%s", err, rig.Tail(p.Log, 10))
	}
	t.stop = append(t.stop, func() error { return stopDaemon(pid, confFile) })
	t.addPID("front", pid)
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		err := dial(addr)
		if err == nil {
			return t, nil
		}
		select {
		case <-ctx.Done():
			return t, fmt.Errorf("nbd-server does not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// waitPID waits for a daemon to write its process id.
func waitPID(ctx context.Context, path string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		b, err := os.ReadFile(path)
		if err == nil {
			var pid int
			if pid, err = strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
				return pid, nil
			}
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("no process id: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stopDaemon ends a process that is not a child of ours. Process ids are used
// again, so it must still be the one whose arguments name our file.
func stopDaemon(pid int, argument string) error {
	ours := func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return err == nil && strings.Contains(string(b), argument)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if !ours() {
			return nil
		}
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stop pid %d: %w", pid, err)
		}
		for end := time.Now().Add(rig.StopGrace); ours() && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
	}
	if ours() {
		return fmt.Errorf("pid %d survives SIGKILL", pid)
	}
	return nil
}
