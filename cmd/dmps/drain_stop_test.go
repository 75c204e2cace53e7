package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"dmps/meta"
	"dmps/meta/metaclient"
	"dmps/raid"
	"dmps/server"
)

// leaverOf is a memory server s1 that was told to end, beside a metadata node.
func leaverOf(t *testing.T) *leaver {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	n, err := meta.Start(t.Context(), meta.Config{Dir: t.TempDir(), Name: "meta1", APIListen: "127.0.0.1:0", RaftListen: "127.0.0.1:0", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	if err := n.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	m, err := metaclient.New([]string{n.APIURL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	srv, err := server.New(server.Config{ID: "s1", Memory: 1 << 20, AllowSwappable: true, Cluster: "c", Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close(context.Background()) })
	return &leaver{meta: m, srv: srv, id: "s1", patience: 5 * time.Second, log: quiet}
}

// known has the metadata know s1 in a life.
func known(t *testing.T, l *leaver, life raid.Incarnation) {
	t.Helper()
	if err := l.meta.Register(t.Context(), server.Info{ID: "s1", Incarnation: life, Addr: standIn(t, "s1", life), MemoryTotal: 1 << 20}); err != nil {
		t.Fatal(err)
	}
}

// A server that somebody drains stays drained when it ends: he wants to remove it.
func TestLeaverLeavesDrained(t *testing.T) {
	l := leaverOf(t)
	known(t, l, l.srv.Incarnation())
	if err := errors.Join(l.meta.DrainServer(t.Context(), "s1"), l.leave()); err != nil {
		t.Fatal(err)
	}
	if list, err := l.meta.Servers(t.Context()); err != nil || !list[0].Draining {
		t.Errorf("%+v, %v", list, err)
	}
}

// A server whose id another one has by now ends, and does not have that one drained.
func TestLeaverDrainsNobodyElse(t *testing.T) {
	l := leaverOf(t)
	known(t, l, l.srv.Incarnation()^1)
	if err := l.leave(); err != nil {
		t.Errorf("it holds nothing that anybody relies on: %v", err)
	}
	page, err := l.meta.Events(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range page.Events {
		if strings.Contains(e.Kind, "drain") {
			t.Errorf("the other server is drained: %+v", e)
		}
	}
}

// A server that holds chunks which the metadata does not know is not drained: they
// would end with it.
func TestUnknownChunksAreNotDrained(t *testing.T) {
	st := &metaclient.Status{Servers: []metaclient.Server{{ID: "s1", State: metaclient.ServerDraining, Draining: true, UnknownChunks: 3}}}
	d, err := drainingFrom(st, "s1")
	if err != nil || d.Drained || d.unknownLeft() == nil {
		t.Errorf("%+v, %v", d, err)
	}
	var out strings.Builder
	if err := d.print(&out); err != nil || !strings.Contains(out.String(), "dmps server purge s1") {
		t.Errorf("%q, %v", out.String(), err)
	}
	out.Reset()
	if renderTrouble(&out, statusReport{Servers: st.Servers}, palette{}, time.Now()); strings.Contains(out.String(), "is drained") || !strings.Contains(out.String(), "3 chunks that the metadata does not know") {
		t.Errorf("status: %q", out.String())
	}
	st.Servers[0].UnknownChunks = 0
	if d, err := drainingFrom(st, "s1"); err != nil || !d.Drained || d.unknownLeft() != nil {
		t.Errorf("%+v, %v", d, err)
	}
}
