package run

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"dmps/client"
	"dmps/meta"
	"dmps/meta/metaclient"
	"dmps/raid"
	"dmps/server"
	"dmps/transport"
	"dmps/transport/tcp"
)

// miser is a dialer to servers that have no memory for a chunk.
type miser struct {
	transport.Dialer
	chunk uint64
}

// Dial implements transport.Dialer.
func (d miser) Dial(ctx context.Context, addr string, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	c, w, err := d.Dialer.Dial(ctx, addr, h, idle)
	if err != nil {
		return nil, w, err
	}
	return mean{c, d.chunk}, w, nil
}

type mean struct {
	transport.Conn
	chunk uint64
}

// OpenChunk implements transport.Conn.
func (c mean) OpenChunk(ctx context.Context, chunk uint64, spec transport.ChunkSpec) error {
	if chunk == c.chunk && !spec.Release {
		if spec.MustExist {
			return transport.ErrNoChunk
		}
		return fmt.Errorf("%w: so the test wants it", transport.ErrNoMemory)
	}
	return c.Conn.OpenChunk(ctx, chunk, spec)
}

// A new volume of which a server refuses one chunk, for good, becomes healthy by itself: the member is
// placed on another server, which is filled with what was written meanwhile. An event says so.
func TestRefusedMemberIsPlacedElsewhere(t *testing.T) {
	for _, redundancy := range []raid.Geometry{{K: 1, M: 1}, {K: 2, M: 1}} {
		t.Run(redundancy.String(), func(t *testing.T) { refusedMember(t, redundancy) })
	}
}

func refusedMember(t *testing.T, redundancy raid.Geometry) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	quiet := slog.New(slog.DiscardHandler)
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	n, err := meta.Start(ctx, meta.Config{Dir: t.TempDir(), Name: "m", APIListen: "127.0.0.1:0", RaftListen: "127.0.0.1:0", Grace: 3 * time.Second, Logger: quiet})
	fail(err)
	defer n.Close()
	asker, err := metaclient.New([]string{n.APIURL()}, metaclient.WithPatience(time.Minute))
	fail(err)
	defer asker.Close()
	for i := range 4 {
		s, err := server.New(server.Config{
			ID: raid.ServerID(fmt.Sprint("s", i)), Memory: 64 << 20, AllowSwappable: true, Listen: "127.0.0.1:0",
			Registrar: asker, Heartbeat: 300 * time.Millisecond, Peers: &tcp.Dialer{}, Log: quiet,
		})
		fail(err)
		defer s.Close(context.Background())
	}
	await := func(what string, ok func() bool) {
		t.Helper()
		for !ok() {
			if sleep(ctx, 20*time.Millisecond) != nil {
				t.Fatalf("%s: not in time", what)
			}
		}
	}
	await("servers", func() bool { st, err := asker.Status(ctx); return err == nil && len(st.Servers) == 4 })
	_, err = asker.CreateVolume(ctx, metaclient.VolumeSpec{Name: "v", Size: 4 << 20, Redundancy: redundancy, FailureDomain: "server"})
	fail(err)
	layout, lease, err := asker.Attach(ctx, client.AttachRequest{Volume: "v", Holder: "h"})
	fail(err)
	m := layout.Groups[0].Members[1]
	v, err := client.Open(ctx, client.Config{
		Layout: layout, Lease: lease, Meta: asker, Dialer: miser{&tcp.Dialer{}, uint64(m.Chunk)}, ArenaBytes: 8 << 20, AllowSwappable: true, Holder: "h", Logger: quiet,
	})
	fail(err)
	defer v.Close(ctx)
	if r := v.Report(); len(r.Refused) != 1 || r.Refused[0].Server != m.Server {
		t.Fatalf("refused: %+v", r.Refused)
	}
	page := make([]byte, raid.PageSize)
	for i := range 256 {
		binary.LittleEndian.PutUint64(page, uint64(i)+1)
		_, err := v.WriteAt(page, int64(i)*raid.PageSize)
		fail(err)
	}
	var vol metaclient.Volume
	var now *raid.Layout
	look := func() bool { vol, now, err = asker.Volume(ctx, "v"); return err == nil }
	await("status", func() bool { return look() && vol.Report != nil && len(vol.Report.Refused) == 1 })
	if vol.State != client.StateDegraded {
		t.Errorf("a member has no memory, and the volume is %s", vol.State)
	}
	await("health", func() bool { return look() && vol.State == client.StateHealthy && len(now.Groups[0].Pending) == 0 })
	if is := now.Groups[0].Members[1]; is.Server == m.Server || is.State != raid.MemberInSync || len(v.Report().Refused) != 0 {
		t.Errorf("the member is %+v, refused are %+v", is, v.Report().Refused)
	}
	events, err := asker.Events(ctx, 0, 0)
	fail(err)
	if !slices.ContainsFunc(events.Events, func(e metaclient.Event) bool {
		return e.Kind == "members-elsewhere" && strings.Contains(e.Text, string(m.Server))
	}) {
		t.Errorf("no event tells of it: %+v", events.Events)
	}
	for i := range 256 {
		_, err := v.ReadAt(page, int64(i)*raid.PageSize)
		fail(err)
		if got := binary.LittleEndian.Uint64(page); got != uint64(i)+1 {
			t.Fatalf("page %d holds %d", i, got)
		}
	}
}
