package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"dmps/internal/accept"
)

// roleFlags are the flags of every role that runs until it is told to end.
type roleFlags struct {
	pidFile  string
	insecure bool
	hosts    []string
}

func (r *roleFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.pidFile, "pidfile", "", "write the process id to this `file`, and keep it locked while running")
	f.BoolVar(&r.insecure, "insecure-network", false, "allow addresses other than loopback: whoever can reach them can read and write everything, there is no authentication yet")
	f.StringSliceVar(&r.hosts, "allow-host", nil, "host `NAMES` by which HTTP requests may reach this process, besides addresses, localhost and the machine's name")
	noCompletion(cmd, "allow-host")
}

// checkAddr refuses an address that others can reach, unless that was asked for.
func (r *roleFlags) checkAddr(flag, addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return usageError("--%s %q: use HOST:PORT, for example 127.0.0.1:7301", flag, addr)
	}
	if r.insecure || host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return nil
	}
	return usageError("--%s %s is not loopback: there is no authentication yet, so whoever can reach it could read and write everything; "+
		"if the network is yours alone, say --insecure-network", flag, addr)
}

// outlivePipes makes a process go on when nobody reads its log any more: a role
// must not die, nor a cluster be left without its head, because a pager or tee
// has ended. Writes fail then, and are lost.
func outlivePipes() { signal.Ignore(syscall.SIGPIPE) }

// pidFile is a file with a process id, locked (flock) while the process lives,
// so that two processes cannot take the same role, and a stale file is no
// obstacle.
type pidFile struct{ f *os.File }

// takePIDFile writes the process id. Without a path it does nothing.
func takePIDFile(path string) (*pidFile, error) {
	if path == "" {
		return &pidFile{}, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("pid file: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, rerr := os.ReadFile(path)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("pid file %s: the role runs already, as process %s: stop that one first", path, strings.TrimSpace(string(holder)))
		}
		return nil, errors.Join(err, rerr, f.Close())
	}
	// Replaced by one write, then cut: a reader never finds the file empty.
	b := []byte(strconv.Itoa(os.Getpid()) + "\n")
	_, err = f.WriteAt(b, 0)
	if err := errors.Join(err, f.Truncate(int64(len(b)))); err != nil {
		return nil, errors.Join(fmt.Errorf("pid file: %w", err), f.Close())
	}
	return &pidFile{f}, nil
}

// release removes the file.
func (p *pidFile) release() error {
	if p.f == nil {
		return nil
	}
	// Removed while still locked: nobody else can have taken it by now.
	return errors.Join(os.Remove(p.f.Name()), p.f.Close())
}

// listen binds a TCP address.
func listen(ctx context.Context, flag, addr string) (net.Listener, error) {
	l, err := accept.Listen(ctx, "tcp", addr, nil)
	if err != nil {
		return nil, listenError(flag, addr, err)
	}
	return l, nil
}
