package meta

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"dmps/internal/port"
	"dmps/meta/metaclient"
	"dmps/meta/state"
	"dmps/raid"
	"dmps/server"
)

// quiet is a logger for tests; Raft's lines help only the one who debugs.
func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func testConfig(t *testing.T, name string) Config {
	t.Helper()
	return Config{
		Dir: t.TempDir(), Name: name, APIListen: "127.0.0.1:0", RaftListen: "127.0.0.1:0", Logger: quiet(),
		SuspectAfter: time.Hour, Grace: time.Hour, // most servers of tests send no heartbeats
		dialBack: booksOnly,
	}
}

// booksOnly finds every server: most of tests exist in the books only.
func booksOnly(context.Context, string, *state.Register, string) error { return nil }

func start(t *testing.T, cfg Config) *Node {
	t.Helper()
	n, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, n) })
	return n
}

func stop(t *testing.T, n *Node) {
	t.Helper()
	if err := n.Close(); err != nil {
		t.Errorf("close %s: %v", n.cfg.Name, err)
	}
}

func waitReady(t *testing.T, nodes ...*Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, n := range nodes {
		if err := n.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func newClient(t *testing.T, patience time.Duration, nodes ...*Node) *metaclient.Client {
	t.Helper()
	var urls []string
	for _, n := range nodes {
		urls = append(urls, n.APIURL())
	}
	c, err := metaclient.New(urls, metaclient.WithPatience(patience))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return c
}

// heldAddr is an address for a node that others must know before it starts, or
// that starts again there. Until then nobody listens there.
func heldAddr(t *testing.T) string {
	t.Helper()
	p, err := port.Hold()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Release(); err != nil {
			t.Error(err)
		}
	})
	return p.At("127.0.0.1")
}

const gib = 1 << 30

func registerServers(t *testing.T, c *metaclient.Client, n int) {
	t.Helper()
	for i := range n {
		if err := c.Register(t.Context(), serverInfo(i, 1)); err != nil {
			t.Fatal(err)
		}
	}
}

func serverInfo(i, life int) server.Info {
	return server.Info{
		ID: raid.ServerID(fmt.Sprintf("s%d", i)), Incarnation: raid.Incarnation(100*life + i),
		Addr: fmt.Sprintf("tcp://127.0.0.1:%d", 7300+i), MemoryTotal: gib,
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}
