package netns

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// roleVariable makes the test's own program a host's: one that sends back what it
// gets, or one that is told over its standard input what to send.
const roleVariable = "NETNS_TEST_ROLE"

// echoPort is where the one listens.
const echoPort = "7000"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "echo":
		echo()
	case "talk":
		talk()
	default:
		os.Exit(m.Run())
	}
}

func echo() {
	l, err := net.Listen("tcp", ":"+echoPort)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		go func() { _, _ = io.Copy(c, c) }() // until the other end is gone
	}
}

// wait is how long the talker waits for anything.
const wait = time.Second

// talk reads "dial HOST" and "send N", and answers with what came of it.
func talk() {
	var c net.Conn
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		var n int
		var err error
		if host, ok := strings.CutPrefix(s.Text(), "dial "); ok {
			c, err = net.DialTimeout("tcp", net.JoinHostPort(host, echoPort), wait)
		} else if _, err = fmt.Sscanf(s.Text(), "send %d", &n); err == nil {
			b := make([]byte, n)
			_ = c.SetDeadline(time.Now().Add(wait)) // an error shows when it is used
			if _, err = c.Write(b); err == nil {
				_, err = io.ReadFull(c, b)
			}
		}
		switch {
		case err == nil:
			fmt.Println("ok")
		case errors.Is(err, syscall.ECONNREFUSED):
			fmt.Println("refused")
		case errors.Is(err, syscall.ECONNRESET):
			fmt.Println("reset")
		case errors.Is(err, os.ErrDeadlineExceeded) || strings.Contains(err.Error(), "timeout"):
			fmt.Println("silence")
		default:
			fmt.Println(err)
		}
	}
}

func need(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes seconds")
	}
	if err := Possible(); err != nil {
		if os.Getenv("DMPS_E2E") == "1" && os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// process starts the test's own program on a host.
func process(t *testing.T, h *Host, role string) (in io.Writer, out *bufio.Scanner, cmd *exec.Cmd) {
	t.Helper()
	argv := h.Argv(os.Args[0])
	cmd = exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	w, err1 := cmd.StdinPipe()
	r, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // Close of the net may have done so
		_ = cmd.Wait()
	})
	return w, bufio.NewScanner(r), cmd
}

// TestFaults: each does what it says, one way or both, and goes when it is over.
func TestFaults(t *testing.T) {
	need(t)
	n, err := New("t", "a", "b", "c")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	a, b, c := n.Hosts("a"), n.Hosts("b"), n.Hosts("c")
	for _, h := range []*Host{b[0], c[0]} {
		if _, out, _ := process(t, h, "echo"); !out.Scan() || out.Text() != "ready" {
			t.Fatalf("%s does not listen: %s", h.Name, out.Text())
		}
	}
	in, out, _ := process(t, a[0], "talk")
	try := func(what, want string) {
		t.Helper()
		if _, err := fmt.Fprintln(in, what); err != nil || !out.Scan() {
			t.Fatalf("%s: no answer: %v, %v", what, err, out.Err())
		}
		if out.Text() != want {
			t.Errorf("%s: %s, want %s", what, out.Text(), want)
		}
	}
	set := func(faults ...Fault) {
		t.Helper()
		if err := n.Set(faults...); err != nil {
			t.Fatal(err)
		}
	}
	dialB, dialC := "dial "+b[0].IP, "dial "+c[0].IP
	try(dialB, "ok")
	try("send 100000", "ok")
	for _, one := range [][]Fault{Cut(a, b), {Drop(a, b)}, {Drop(b, a)}} {
		set(one...)
		try("send 10", "silence")
		try(dialB, "silence")
		try(dialC, "ok")
		set()
		try(dialB, "ok")
	}
	set(DropLarge(a, b))
	try(dialB, "ok")
	try("send 1000", "ok")
	try("send 100000", "silence")
	set(Refuse(a, b))
	try(dialB, "refused")
	set()
	try(dialB, "ok")
	set(Refuse(a, b))
	try("send 10", "reset")
	set(Throttle(a, b, 100))
	try(dialB, "ok")
	try("send 2000", "ok")
	try("send 3000000", "silence")
	set()
	try(dialB, "ok")
	frozen, err := Freeze(a, b)
	if err != nil {
		t.Fatal(err)
	}
	set(frozen)
	try("send 10", "silence")
	try(dialB, "ok")
	try("send 100000", "ok")
}

// TestSweep: what a process left behind that is gone goes with the next network.
func TestSweep(t *testing.T) {
	need(t)
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	left := fmt.Sprintf("%s%d-t-a", ours, gone.Process.Pid)
	if err := ip("netns", "add", left); err != nil {
		t.Fatal(err)
	}
	n, err := New("sweep", "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if list, err := exec.Command("ip", "netns", "list").Output(); err != nil || bytes.Contains(list, []byte(left)) {
		t.Errorf("%s is left (%v):\n%s", left, err, list)
	}
}

// TestClose: nothing is left, not even what runs on the hosts.
func TestClose(t *testing.T) {
	need(t)
	n, err := New("gone", "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	_, out, cmd := process(t, n.Hosts("a")[0], "echo")
	if !out.Scan() {
		t.Fatal("it does not listen")
	}
	prefix := n.prefix
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("what ran on a host: %v", err)
	}
	list, err := exec.Command("ip", "netns", "list").Output()
	if err != nil || bytes.Contains(list, []byte(prefix)) {
		t.Errorf("namespaces are left (%v):\n%s", err, list)
	}
}
