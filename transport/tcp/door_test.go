package tcp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dmps/transport"
)

// exhausted fails the first calls of Accept, as a process without descriptors does.
type exhausted struct {
	net.Listener
	left atomic.Int32
}

func (e *exhausted) Accept() (net.Conn, error) {
	if e.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: e.Addr(), Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return e.Listener.Accept()
}

// book is a log that can be read.
type book struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *book) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *book) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), text)
}

func serve(t *testing.T, s *Server, failures int32) (addr string, log *book) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &exhausted{Listener: l}
	e.left.Store(failures)
	log = new(book)
	s.Log, s.Backend = slog.New(slog.NewTextHandler(log, nil)), &stuckRebuilds{}
	served := make(chan error, 1)
	go func() { served <- s.Serve(e) }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-served); err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String(), log
}

func dialed(addr string) error {
	var d Dialer
	c, _, err := d.Dial(context.Background(), "tcp://"+addr, transport.Hello{Cluster: "c", Volume: 1, Epoch: 1}, nil)
	if err == nil {
		err = c.Close()
	}
	return errors.Join(err, d.Close())
}

// A server that was out of descriptors serves again.
func TestOutOfDescriptors(t *testing.T) {
	var s Server
	addr, log := serve(t, &s, 3)
	if err := dialed(addr); err != nil {
		t.Fatal(err)
	}
	if !log.has("could not be accepted") {
		t.Error("the log does not say it")
	}
}

// refusalOf is what the server says to a connection before it said anything.
func refusalOf(t *testing.T, addr string) error {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	_, err = decodeWelcome(c, transport.Version)
	return err
}

func silent(t *testing.T, addr string, n int) (conns []net.Conn) {
	t.Helper()
	for range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	return conns
}

// One host that only connects keeps nobody else out, and is told so. When its
// connections are gone it is let in.
func TestManyWithoutHello(t *testing.T) {
	var s Server
	addr, log := serve(t, &s, 0)
	conns := silent(t, addr, maxEarly)
	err := refusalOf(t, addr)
	if !errors.Is(err, transport.ErrRefused) || !strings.Contains(err.Error(), "256 connections from 127.0.0.1/32 have not said who they are") {
		t.Errorf("refused with %v", err)
	}
	if err := dialed(addr); !errors.Is(err, transport.ErrRefused) {
		t.Errorf("a session from there: %v", err)
	}
	if !log.has("have not said who they are") || s.TurnedAway() != 2 || s.Full() != nil {
		t.Errorf("refused %d, full: %v", s.TurnedAway(), s.Full())
	}
	s.mu.Lock()
	other := s.mu.early[source{}]
	s.mu.Unlock()
	if other != 0 {
		t.Error("the source was not found")
	}
	for _, c := range conns {
		c.Close()
	}
	for err = dialed(addr); errors.Is(err, transport.ErrRefused); err = dialed(addr) {
		time.Sleep(time.Millisecond) // the server notices the ends
	}
	if err != nil {
		t.Error(err)
	}
	for left := 1; left != 0; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		left = len(s.mu.early)
		s.mu.Unlock()
	}
}

// A server that is full says so to those that it refuses, and to its owner.
func TestFull(t *testing.T) {
	s := Server{most: 3}
	addr, log := serve(t, &s, 0)
	conns := silent(t, addr, 3)
	if err := refusalOf(t, addr); !errors.Is(err, transport.ErrRefused) || !strings.Contains(err.Error(), "all 3 connections") {
		t.Errorf("refused with %v", err)
	}
	if s.Full() == nil || !log.has("all 3 connections") {
		t.Errorf("full: %v", s.Full())
	}
	_ = conns[0].Close()
	for s.Full() != nil {
		time.Sleep(time.Millisecond)
	}
	if err := dialed(addr); err != nil {
		t.Error(err)
	}
	for _, c := range conns {
		c.Close()
	}
}

// Connections that are refused and stay bind nothing for long.
func TestRefusedDoNotStay(t *testing.T) {
	s := Server{most: 1}
	addr, _ := serve(t, &s, 0)
	conns := silent(t, addr, 2*maxLeaving)
	for _, c := range conns[1:] {
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.ReadAll(c); err != nil {
			t.Error(err)
		}
	}
	for {
		s.mu.Lock()
		n, in := len(s.mu.leaving), len(s.mu.conns)
		s.mu.Unlock()
		if n == 0 && in == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	for _, c := range conns {
		c.Close()
	}
}

func TestSourceOf(t *testing.T) {
	for addr, want := range map[string]string{
		"10.1.2.3:5":          "10.1.2.3/32",
		"[::ffff:10.1.2.3]:5": "10.1.2.3/32",
		"[2001:db8::1:2]:5":   "2001:db8::/64",
		"[fe80::1%eth0]:5":    "fe80::/64",
	} {
		a, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := sourceOf(from{a: a}).String(); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
}

type from struct {
	net.Conn
	a net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.a }

// The system ends sessions of a host that vanished within half a minute: only then
// another one gets its volume without a takeover.
func TestVanishedPeerIsNoticed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &caught{Listener: l, conns: make(chan *net.TCPConn, 1)}
	s := Server{Backend: &stuckRebuilds{}}
	served := make(chan error, 1)
	go func() { served <- s.Serve(c) }()
	defer func() {
		if err := errors.Join(s.Close(), <-served); err != nil {
			t.Error(err)
		}
	}()
	var d Dialer
	defer d.Close()
	conn, _, err := d.Dial(t.Context(), "tcp://"+l.Addr().String(), transport.Hello{Cluster: "c", Volume: 1, Epoch: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	rc, err := (<-c.conns).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	option := func(level, name int) (n int) {
		if err := rc.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), level, name) }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if option(unix.SOL_SOCKET, unix.SO_KEEPALIVE) == 0 {
		t.Error("no probes")
	}
	if is := option(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE) + option(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)*option(unix.IPPROTO_TCP, unix.TCP_KEEPCNT); is > 30 {
		t.Errorf("an idle session ends after %d s", is)
	}
}

// caught gives away the connections that it accepts.
type caught struct {
	net.Listener
	conns chan *net.TCPConn
}

func (l *caught) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if t, ok := c.(*net.TCPConn); ok {
		l.conns <- t
	}
	return c, err
}

// Connections never take the last descriptors: files, listeners and links of rebuilds
// need some.
func TestConnectionsLeaveDescriptors(t *testing.T) {
	for descriptors, want := range map[uint64]int{128: 96, 1024: 768, 1 << 20: maxConns, ^uint64(0): maxConns} {
		if got := limitOf(descriptors); got != want {
			t.Errorf("of %d descriptors %d are for connections, not %d", descriptors, got, want)
		}
	}
}
