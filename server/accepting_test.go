package server

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dmps/internal/accept"
	"dmps/transport"
	"dmps/transport/tcp"
)

// crowded is a Front that may be full.
type crowded struct {
	*tcp.Server
	full atomic.Bool
}

func (c *crowded) Full() error {
	if c.full.Load() {
		return errors.New("full")
	}
	return c.Server.Full()
}

// Heartbeats say whether anybody gets a new session.
func TestHeartbeatSaysWhetherItAccepts(t *testing.T) {
	meta := &fakeMeta{reply: HeartbeatReply{Cluster: "c"}}
	var front *crowded
	start(t, Config{
		Listen: "127.0.0.1:0", Registrar: meta, Heartbeat: time.Millisecond,
		Front: func(b transport.Backend) Front {
			front = &crowded{Server: &tcp.Server{Backend: b, Log: slog.New(slog.DiscardHandler)}}
			return front
		},
	})
	say := func(want bool) {
		t.Helper()
		for {
			meta.mu.Lock()
			n := len(meta.beats)
			got := n > 0 && meta.beats[n-1].NotAccepting == want
			meta.mu.Unlock()
			if got {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	say(false)
	front.full.Store(true)
	say(true)
	front.full.Store(false)
	say(false)
}

// deaf is a listener of a process without descriptors.
type deaf struct{ net.Listener }

func (d deaf) Accept() (net.Conn, error) {
	return nil, os.NewSyscallError("accept4", syscall.EMFILE)
}

// One address that is deaf is enough.
func TestAcceptingAtAll(t *testing.T) {
	s := start(t, Config{Cluster: "c", Listen: "127.0.0.1:0"})
	if err := s.accepting(); err != nil {
		t.Fatal(err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := accept.Keep(deaf{inner}, slog.New(slog.DiscardHandler))
	over := make(chan struct{})
	go func() {
		defer close(over)
		_, _ = l.Accept()
	}()
	for l.Failures() == 0 {
		time.Sleep(time.Millisecond)
	}
	s.doors = append(s.doors, l)
	if err := s.accepting(); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("accepting: %v", err)
	}
	_ = l.Close()
	<-over
	s.doors = s.doors[:1]
	s.Retire() // it still lets in who comes, and is to be given nothing
	if err := s.accepting(); err == nil {
		t.Error("a server that is about to end says that it accepts")
	}
}
