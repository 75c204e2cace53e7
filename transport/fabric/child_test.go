//go:build fabric && cgo

package fabric_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dmps/server"
	"dmps/transport/fabric"
)

// A child is a memory server in a process of its own. With shm there is no other
// way: within one process libfabric 1.17 gives both endpoints the same mapping,
// and takes it from one when the other is closed. It also can be frozen truly.
type child struct {
	cmd         *exec.Cmd
	in          io.WriteCloser
	addr        string
	incarnation uint64
	raw         fabric.RawAddress
}

const childEnv = "DMPS_FABRIC_CHILD"

type childSpec struct {
	Provider string
	Window   int
	Memory   int64
	Spin     time.Duration

	// Or something to compare a server with (figure_test.go).
	Raw     *fabric.RawAddress // of a fabric.Raw that will transfer
	Sockets bool               // the other end of sockets
}

type childIs struct {
	Addr        string
	Incarnation uint64
	Raw         fabric.RawAddress
}

// startChild starts one, for a provider that must be there.
func startChild(t testing.TB, spec childSpec) *child {
	t.Helper()
	if !spec.Sockets {
		need(t, spec.Provider)
	}
	b, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), childEnv+"="+string(b), "GORACE=atexit_sleep_ms=0")
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.in.Close()
		if err := c.cmd.Wait(); err != nil {
			t.Errorf("the memory server: %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the memory server said %q: %v", line, err)
	}
	var is childIs
	if err := json.Unmarshal([]byte(line), &is); err != nil {
		t.Fatal(err)
	}
	c.addr, c.incarnation, c.raw = is.Addr, is.Incarnation, is.Raw
	return c
}

// cpu is the time that the process has used.
func (c *child) cpu(t testing.TB) time.Duration {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", c.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var sum time.Duration
	for _, f := range tasks {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // the thread is gone
		}
		var ns int64
		if _, err := fmt.Sscan(string(b), &ns); err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(ns)
	}
	return sum
}

// stall freezes the process.
func (c *child) stall(on bool) {
	if !on {
		_ = c.cmd.Process.Signal(syscall.SIGCONT)
		return
	}
	_ = c.cmd.Process.Signal(syscall.SIGSTOP)
	for range 1000 {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
		if err != nil || strings.Contains(string(b), ") T ") {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// serveChild is the process: it ends when its input does.
func serveChild(text string) {
	die := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "memory server of a test:", err)
			os.Exit(1)
		}
	}
	var spec childSpec
	die(json.Unmarshal([]byte(text), &spec))
	is := func(x childIs) { die(json.NewEncoder(os.Stdout).Encode(x)) }
	switch {
	case spec.Raw != nil:
		r, a, err := fabric.NewRaw(spec.Provider, at(spec.Provider), true)
		die(err)
		die(r.Connect(*spec.Raw))
		is(childIs{Raw: a})
		die(r.Serve(os.Stdin))
		die(r.Close())
		return
	case spec.Sockets:
		l, err := net.Listen("tcp", "127.0.0.1:0")
		die(err)
		is(childIs{Addr: l.Addr().String()})
		die(serveSockets(l))
		return
	}
	log := slog.New(slog.DiscardHandler)
	s, err := server.New(server.Config{ID: "a", Cluster: "c", Memory: spec.Memory, Window: spec.Window, Log: log})
	die(err)
	l, err := net.Listen("tcp", net.JoinHostPort(at(spec.Provider), "0"))
	die(err)
	front := &fabric.Server{Backend: s, Log: log, Providers: []string{spec.Provider}, Spin: spec.Spin}
	served := make(chan error, 1)
	go func() { served <- front.Serve(l) }()
	is(childIs{Addr: "fabric+" + spec.Provider + "://" + l.Addr().String(), Incarnation: uint64(s.Incarnation())})
	_, _ = io.Copy(io.Discard, os.Stdin)
	die(front.Close())
	die(<-served)
	die(s.Close(context.Background()))
}
