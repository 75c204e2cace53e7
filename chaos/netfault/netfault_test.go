package netfault

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"dmps/chaos/plan"
)

// dialVariable makes the test's own program dial an address and say what it hears.
const dialVariable = "NETFAULT_DIAL"

func TestMain(m *testing.M) {
	if addr := os.Getenv(dialVariable); addr != "" {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_, err = io.Copy(os.Stdout, c)
		}
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// echo is a server that sends back what it gets, in upper case.
func echo(t *testing.T) (addr string, accepted *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted = new(atomic.Int32)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			go func() {
				defer c.Close()
				b := make([]byte, 1<<20)
				for {
					k, err := c.Read(b)
					if err != nil {
						return
					}
					c.Write(bytes.ToUpper(b[:k]))
				}
			}()
		}
	}()
	return l.Addr().String(), accepted
}

func through(t *testing.T) (n *Net, dial func() *net.TCPConn, accepted *atomic.Int32) {
	t.Helper()
	addr, accepted := echo(t)
	n = New(nil)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	front, err := n.Front(plan.Client, plan.Server(1), addr)
	if err != nil {
		t.Fatal(err)
	}
	return n, func() *net.TCPConn {
		c, err := net.Dial("tcp", front)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.TCPConn)
	}, accepted
}

func mustBreak(t *testing.T, n *Net, f plan.Fault) (mend func()) {
	t.Helper()
	mend, err := n.Break(f)
	if err != nil {
		t.Fatal(err)
	}
	return mend
}

func say(t *testing.T, c net.Conn, what string) {
	t.Helper()
	if _, err := c.Write([]byte(what)); err != nil {
		t.Fatal(err)
	}
}

// hear reads as many bytes as want has, or nothing within a moment if want is "".
func hear(t *testing.T, c net.Conn, want string) {
	t.Helper()
	if want == "" {
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		var b [1]byte
		if k, err := c.Read(b[:]); k > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%q, %v", b[:k], err)
		}
		return
	}
	c.SetReadDeadline(time.Now().Add(time.Minute))
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("%q, %v; want %q", b, err, want)
	}
}

func TestCutHoldsAndDelivers(t *testing.T) {
	n, dial, accepted := through(t)
	c := dial()
	say(t, c, "one")
	hear(t, c, "ONE")
	for _, link := range []plan.Link{
		{A: plan.Client, B: plan.Server(1)},
		{A: plan.Client, B: plan.Server(1), OneWay: true},
		{A: plan.Server(1), B: plan.Client, OneWay: true},
	} {
		mend := mustBreak(t, n, plan.Fault{Kind: plan.Cut, Link: link})
		say(t, c, "two")
		hear(t, c, "")
		mend()
		mend() // twice is once
		hear(t, c, "TWO")
	}
	other := mustBreak(t, n, plan.Fault{Kind: plan.Cut, Link: plan.Link{A: plan.Client, B: plan.Server(2)}})
	defer other()
	say(t, c, "three")
	hear(t, c, "THREE")

	// Who dials is accepted, hears nothing, and reaches nobody until then.
	before := accepted.Load()
	mend := mustBreak(t, n, plan.Fault{Kind: plan.Cut, Link: plan.Link{A: plan.Client, B: plan.Server(1)}})
	d := dial()
	say(t, d, "four")
	hear(t, d, "")
	if accepted.Load() != before {
		t.Error("a connection came through a cut")
	}
	mend()
	hear(t, d, "FOUR")
}

// TestLateDelivery: what a sender that has given up had sent arrives when the
// cut is over.
func TestLateDelivery(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n := New(nil)
	defer n.Close()
	front, err := n.Front(plan.Client, plan.Server(1), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", front)
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	mend := mustBreak(t, n, plan.Fault{Kind: plan.Cut, Link: plan.Link{A: plan.Client, B: plan.Server(1), OneWay: true}})
	say(t, c, "late")
	time.Sleep(200 * time.Millisecond) // until the proxy has it; a reset would throw it away
	c.Close()
	hear(t, s, "")
	mend()
	hear(t, s, "late")
	if _, err := s.Read(make([]byte, 1)); err == nil {
		t.Error("the end of the stream was lost")
	}
}

func TestDelayAndThrottle(t *testing.T) {
	n, dial, _ := through(t)
	c := dial()
	say(t, c, "a")
	hear(t, c, "A")
	link := plan.Link{A: plan.Client, B: plan.Server(1)}
	mend := mustBreak(t, n, plan.Fault{Kind: plan.Delay, Link: link, By: 50 * time.Millisecond})
	start := time.Now()
	say(t, c, "b")
	hear(t, c, "B")
	if d := time.Since(start); d < 100*time.Millisecond {
		t.Errorf("there and back in %v", d)
	}
	mend()
	mend = mustBreak(t, n, plan.Fault{Kind: plan.Throttle, Link: link, Rate: 64 << 10})
	start = time.Now()
	say(t, c, strings.Repeat("c", 16<<10)) // the buffers take it
	hear(t, c, strings.Repeat("C", 16<<10))
	if d := time.Since(start); d < 400*time.Millisecond {
		t.Errorf("16 KiB there and back at 64 KiB/s in %v", d)
	}
	mend()
}

func TestReset(t *testing.T) {
	n, dial, _ := through(t)
	c := dial()
	say(t, c, "a")
	hear(t, c, "A")
	mustBreak(t, n, plan.Fault{Kind: plan.Reset, Link: plan.Link{A: plan.Server(1), B: plan.Client}})
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset: %v", err)
	}
	d := dial()
	say(t, d, "b")
	hear(t, d, "B")
	if _, err := n.Break(plan.Fault{Kind: plan.Kill}); err == nil {
		t.Error("a killed link")
	}
}

// TestOwners: who dialled is found by the process that holds the socket.
func TestOwners(t *testing.T) {
	var pid atomic.Int64
	n := New(Owners(func() map[int]plan.Role { return map[int]plan.Role{int(pid.Load()): plan.Server(7)} }))
	defer n.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("hello"))
			c.Close()
		}
	}()
	front, err := n.Front("", plan.Server(1), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	mend := mustBreak(t, n, plan.Fault{Kind: plan.Cut, Link: plan.Link{A: plan.Server(7), B: plan.Server(1)}})
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), dialVariable+"="+front)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid.Store(int64(cmd.Process.Pid))
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	// This process is none of the roles: it comes through.
	c, err := net.Dial("tcp", front)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hear(t, c, "hello")
	select {
	case err := <-ended:
		t.Fatalf("process %s came through: %v, %s", strconv.Itoa(cmd.Process.Pid), err, out.String())
	case <-time.After(200 * time.Millisecond):
	}
	mend()
	if err := <-ended; err != nil || out.String() != "hello" {
		t.Errorf("%v, %q", err, out.String())
	}
}
