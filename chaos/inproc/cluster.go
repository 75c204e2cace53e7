// Package inproc runs memory servers in this process, on loopback sockets, and
// makes layouts over them without a metadata service: the smallest thing that
// a client.Volume can be opened on with nothing faked on the page path.
package inproc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"dmps/client"
	"dmps/raid"
	"dmps/server"
	"dmps/transport/tcp"
)

// ClusterID is the id that all these clusters have.
const ClusterID = "inproc"

// Cluster is a set of memory servers.
type Cluster struct {
	Servers []*server.Server
	chunk   raid.ChunkID
	volume  raid.VolumeID
}

// Start runs n servers that lend memory bytes each. The memory is locked
// unless the limits forbid it.
func Start(n int, memory int64) (*Cluster, error) {
	c := &Cluster{}
	for i := range n {
		s, err := server.New(server.Config{
			ID:             raid.ServerID(fmt.Sprint("server-", i+1)),
			Memory:         memory,
			AllowSwappable: true,
			Listen:         "127.0.0.1:0",
			Cluster:        ClusterID,
			Log:            slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("starting server %d: %w", i+1, err), c.Close())
		}
		c.Servers = append(c.Servers, s)
	}
	return c, nil
}

// Close ends all servers.
func (c *Cluster) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var errs []error
	for _, s := range c.Servers {
		errs = append(errs, s.Close(ctx))
	}
	return errors.Join(errs...)
}

// Layout places a new volume of pages pages, a quarter more slots included,
// round robin on the servers.
func (c *Cluster) Layout(kind raid.LayoutKind, g raid.Geometry, pages uint64) *raid.Layout {
	c.volume++
	groups := 8
	if kind != raid.LayoutLog {
		groups = len(c.Servers)
	}
	per := uint64(groups * g.K)
	slots := pages
	if kind == raid.LayoutLog {
		slots = pages*5/4 + per*256
	}
	l := &raid.Layout{
		Volume: c.volume, Name: fmt.Sprint("volume-", c.volume), Kind: kind, Geometry: g, Pages: pages,
		ChunkSlots: uint32((slots + per - 1) / per), MinAck: g.K, Epoch: 1, FirstEpoch: true, Cluster: ClusterID,
	}
	for i := range groups {
		gr := raid.Group{ID: raid.GroupID(i)}
		for m := range g.Members() {
			s := c.Servers[(i+m)%len(c.Servers)]
			c.chunk++
			gr.Members = append(gr.Members, raid.Member{
				Server: raid.ServerID(fmt.Sprint("server-", (i+m)%len(c.Servers)+1)), Addr: s.Addr(),
				Incarnation: s.Incarnation(), Chunk: c.chunk,
			})
		}
		l.Groups = append(l.Groups, gr)
	}
	return l
}

// Open attaches a volume to its servers over TCP. change, if any, changes the
// configuration before.
func Open(ctx context.Context, l *raid.Layout, change ...func(*client.Config)) (*client.Volume, error) {
	cfg := client.Config{
		Layout: l, Dialer: &tcp.Dialer{}, AllowSwappable: true,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for _, c := range change {
		c(&cfg)
	}
	return client.Open(ctx, cfg)
}
