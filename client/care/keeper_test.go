package care

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"dmps/chaos/inproc"
	"dmps/client"
	"dmps/raid"
	"dmps/transport"
	"dmps/transport/tcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is a metadata service of one volume.
type cluster struct {
	mu       sync.Mutex
	layout   *raid.Layout
	attached int
	detached []raid.Epoch
	fenced   bool
}

func (c *cluster) Attach(_ context.Context, r client.AttachRequest) (*raid.Layout, client.Lease, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !r.Care || r.Holder != "caretaker@s1" || r.Takeover {
		panic("no care")
	}
	c.attached++
	c.layout.Epoch++
	return c.copy(), client.Lease{TTL: time.Second, Renew: 20 * time.Millisecond}, nil
}

func (c *cluster) copy() *raid.Layout {
	l := *c.layout
	l.Groups = nil
	for _, g := range c.layout.Groups {
		g.Members = append([]raid.Member(nil), g.Members...)
		l.Groups = append(l.Groups, g)
	}
	return &l
}

func (c *cluster) Renew(_ context.Context, _ raid.VolumeID, _ raid.Epoch, r client.Report) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fenced {
		return 0, client.ErrFenced
	}
	for _, g := range c.layout.Groups {
		for i := range g.Members {
			for _, chunk := range r.Rebuilt {
				if g.Members[i].Chunk == chunk && g.Members[i].State == raid.MemberRebuilding {
					g.Members[i].State = raid.MemberInSync
					c.layout.Version++
				}
			}
		}
	}
	return c.layout.Version, nil
}

func (c *cluster) Layout(context.Context, raid.VolumeID, uint64) (*raid.Layout, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.copy(), nil
}

func (c *cluster) Detach(_ context.Context, _ raid.VolumeID, e raid.Epoch) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.detached = append(c.detached, e)
	return nil
}

func (c *cluster) state() (attached, detached int, whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	whole = true
	for _, g := range c.layout.Groups {
		for _, m := range g.Members {
			whole = whole && m.State == raid.MemberInSync
		}
	}
	return c.attached, len(c.detached), whole
}

// lost makes a volume with data, of which one server's members were replaced.
func lost(t *testing.T) *cluster {
	t.Helper()
	in, err := inproc.Start(4, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	})
	l := in.Layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 512)
	v, err := inproc.Open(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 256*raid.PageSize)
	for i := range data {
		data[i] = byte(i ^ i>>11)
	}
	if _, err := v.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.FirstEpoch = false
	chunk := raid.ChunkID(1 << 20)
	for _, g := range l.Groups {
		for i := range g.Members {
			if g.Members[i].Server != "server-1" {
				continue
			}
			for k, s := range in.Servers {
				used := false
				for _, m := range g.Members {
					used = used || m.Addr == s.Addr()
				}
				if !used {
					chunk++
					g.Members[i] = raid.Member{Server: raid.ServerID([]string{"server-1", "server-2", "server-3", "server-4"}[k]), Addr: s.Addr(), Incarnation: s.Incarnation(), Chunk: chunk, State: raid.MemberRebuilding}
					break
				}
			}
		}
	}
	return &cluster{layout: l}
}

func keeper(c *cluster, memory int64, log *slog.Logger) *Keeper {
	return New(Config{Holder: "caretaker@s1", Meta: c, Dialer: func() transport.Dialer { return new(tcp.Dialer) }, Memory: memory, Logger: log})
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatalf("still not: %s", what)
		}
	}
}

// A volume that is offered is filled, and given back when it is whole.
func TestKeeperFillsAndGivesBack(t *testing.T) {
	c := lost(t)
	k := keeper(c, Need(512), quiet())
	defer k.Close()
	for range 5 {
		k.Offer("v", 512)
	}
	await(t, "given back", func() bool { _, d, _ := c.state(); return d > 0 })
	if a, d, whole := c.state(); a != 1 || d != 1 || !whole {
		t.Fatalf("attached %d times, given back %d times, whole: %v", a, d, whole)
	}
}

// A keeper that was fenced, as by an attach or a delete, stops and gives nothing
// back: the lease is not its own any more.
func TestKeeperGivesWay(t *testing.T) {
	c := lost(t)
	c.fenced = true
	k := keeper(c, Need(512), quiet())
	k.Offer("v", 512)
	await(t, "over", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return len(k.mu.kept) == 0
	})
	k.Close()
	if a, d, _ := c.state(); a != 1 || d != 0 {
		t.Fatalf("attached %d times, given back %d times", a, d)
	}
}

// The end of a server gives the lease back at once.
func TestKeeperCloses(t *testing.T) {
	c := lost(t)
	k := keeper(c, Need(512), quiet())
	k.Offer("v", 512)
	await(t, "attached", func() bool { a, _, _ := c.state(); return a > 0 })
	k.Close()
	if a, d, _ := c.state(); a != d {
		t.Fatalf("attached %d times, given back %d times", a, d)
	}
	k.Offer("v", 512)
	if a, _, _ := c.state(); a != 1 {
		t.Fatal("care begins after the end")
	}
}

// What does not fit is left, and said once.
func TestKeeperIsBounded(t *testing.T) {
	c := lost(t)
	var said strings.Builder
	k := keeper(c, Need(512)-1, slog.New(slog.NewTextHandler(&said, nil)))
	for range 3 {
		k.Offer("v", 512)
	}
	k.Close()
	if a, _, _ := c.state(); a != 0 {
		t.Error("care for a volume that does not fit")
	}
	if n := strings.Count(said.String(), "--care-memory"); n != 1 {
		t.Errorf("said %d times that it does not fit: %s", n, said.String())
	}
	if Need(1<<20) < 16<<20 {
		t.Error("the page map of 4 GiB is not counted")
	}
}
