//go:build fabric && cgo

package fabric_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"dmps/server"
	"dmps/transport"
	"dmps/transport/fabric"
	"dmps/transport/transporttest"
)

// verbsAt names the IP address of an RDMA interface of this machine: without
// it the tests of verbs skip themselves.
const verbsAt = "DMPS_FABRIC_VERBS"

// at is the address at which a provider is tested.
func at(provider string) string {
	if a := os.Getenv(verbsAt); provider == "verbs" && a != "" {
		return a
	}
	return "127.0.0.1"
}

// need skips where a provider is not there, unless somebody said that it is.
func need(t testing.TB, provider string) {
	t.Helper()
	err := fabric.Available(provider, at(provider))
	if err != nil && provider == "verbs" && os.Getenv(verbsAt) != "" {
		t.Fatalf("%s is set: %v", verbsAt, err)
	}
	if err != nil {
		t.Skipf("no provider %s: %v", provider, err)
	}
}

// rig is a memory server behind a fabric.Server.
type rig struct {
	mem   *server.Server
	front *fabric.Server
	gate  *transporttest.Gate
	addr  string
}

// start starts one, for a provider that must be there.
func start(t testing.TB, provider string, c server.Config, spin time.Duration) *rig {
	t.Helper()
	need(t, provider)
	if c.Memory == 0 {
		c.Memory = 16 << 20
	}
	c.ID, c.Cluster, c.Log = "a", "c", slog.New(slog.DiscardHandler)
	s, err := server.New(c)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(at(provider), "0"))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{mem: s, gate: &transporttest.Gate{Backend: s}, addr: "fabric+" + provider + "://" + l.Addr().String()}
	r.front = &fabric.Server{Backend: r.gate, Log: c.Log, Providers: []string{provider}, Spin: spin}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.front.Serve(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.front.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) stall(on bool) {
	r.gate.Stall(on)
	r.front.Stall(on)
}

// inProcess tests against a server in this process: allocations of both ends
// are counted, and the race detector sees both.
func inProcess(provider string, eager int) transporttest.Factory {
	return func(t *testing.T) transporttest.Medium {
		r := start(t, provider, server.Config{Window: 16}, 0)
		return transporttest.Medium{
			NewDialer: func() transport.Dialer { return &fabric.Dialer{Strict: true, Eager: eager} },
			Addr:      r.addr, Cluster: "c", Incarnation: uint64(r.mem.Incarnation()),
			Stall: stall(provider, r.stall), Allocs: true, Unverified: eager < transport.PageSize,
		}
	}
}

// apart tests against a server in a process of its own.
func apart(provider string, eager int) transporttest.Factory {
	return func(t *testing.T) transporttest.Medium {
		c := startChild(t, childSpec{Provider: provider, Window: 16, Memory: 16 << 20})
		return transporttest.Medium{
			NewDialer: func() transport.Dialer { return &fabric.Dialer{Strict: true, Eager: eager} },
			Addr:      c.addr, Cluster: "c", Incarnation: c.incarnation,
			Stall: stall(provider, c.stall), Allocs: true, Unverified: eager < transport.PageSize,
		}
	}
}

// stall is how a server is kept from answering: over verbs it cannot be. Its
// memory is read and written without a thread of it.
func stall(provider string, how func(bool)) func(bool) {
	if provider == "verbs" {
		return nil
	}
	return how
}

const (
	none   = -1       // all that can be is one-sided
	medium = 16 << 10 // what is larger is
)

func TestConformance(t *testing.T) {
	for name, f := range map[string]transporttest.Factory{
		"tcp":       inProcess("tcp", none),
		"tcp,eager": inProcess("tcp", medium),
		"tcp,apart": apart("tcp", none),
		"shm":       apart("shm", none),
		"shm,eager": apart("shm", medium),

		"verbs":       inProcess("verbs", none),
		"verbs,eager": inProcess("verbs", medium),
		"verbs,apart": apart("verbs", none),
	} {
		t.Run(name, func(t *testing.T) { transporttest.Run(t, f) })
	}
}
