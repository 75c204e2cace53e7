package port

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

func hold(t *testing.T) *Held {
	t.Helper()
	h, err := Hold()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Release(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// TestHeldPort: who knows the port listens there, again and again; between two
// lives, and before the first, connections are refused.
func TestHeldPort(t *testing.T) {
	h := hold(t)
	for range 3 {
		for _, host := range []string{"127.0.0.1", "127.0.0.2"} {
			if c, err := net.Dial("tcp", h.At(host)); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatalf("nobody listens: %v, %v", c, err)
			}
			l, err := net.Listen("tcp", h.At(host))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := net.Listen("tcp", h.At(host)); !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("a second listener: %v", err)
			}
			c, err := net.Dial("tcp", h.At(host))
			if err != nil {
				t.Fatal(err)
			}
			s, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			// The end that closes first leaves a connection behind that waits for
			// late packets: that must not keep the next one from listening.
			if err := errors.Join(s.Close(), c.Close(), l.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestNobodyElseGetsIt: neither a listener at any port nor a connection is given
// a held one. Both ask often enough to have met one of so many.
func TestNobodyElseGetsIt(t *testing.T) {
	numbers := map[string]bool{}
	for range 500 {
		numbers[hold(t).At("127.0.0.1")] = true
	}
	if len(numbers) != 500 {
		t.Fatalf("%d different ports of 500", len(numbers))
	}
	for range 2000 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if a := l.Addr().String(); numbers[a] {
			t.Errorf("%s was given to a listener", a)
		}
		if a := c.LocalAddr().String(); numbers[a] {
			t.Errorf("%s was given to a connection", a)
		}
		// Reset, so that no port waits for late packets.
		if err := errors.Join(c.(*net.TCPConn).SetLinger(0), c.Close(), l.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
