package scale

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"dmps/client"
	"dmps/internal/loadgen"
	"dmps/meta/metaclient"
	"dmps/raid"
	"dmps/server"
	"dmps/server/standin"
)

// Config is how much there is.
type Config struct {
	URLs     []string // of the metadata nodes
	Servers  int
	Volumes  int // each with a client that has attached it
	Groups   int // of each volume
	Geometry raid.Geometry

	Beat  time.Duration // between the heartbeats of a server
	Renew time.Duration // between the renewals of a lease
}

const (
	chunkBytes = 1 << 20 // page bytes of a chunk, the smallest
	lent       = 64 << 30
)

// Fleet is servers and clients that only talk to the metadata.
type Fleet struct {
	cfg     Config
	clients []*metaclient.Client // shared: a connection for each of a thousand is not the point
	servers []*member
	ctx     context.Context
	end     context.CancelFunc
	wg      sync.WaitGroup

	mu struct {
		sync.Mutex
		beats, renewals loadgen.Histogram
		errs            []error
		counts          map[raid.ServerID]*member
	}
}

// member is one memory server.
type member struct {
	id   raid.ServerID
	door *standin.Server

	mu     sync.Mutex
	chunks []raid.ChunkID // ascending
	told   uint64
	quiet  bool
}

// New registers the servers.
func New(ctx context.Context, cfg Config) (*Fleet, error) {
	f := &Fleet{cfg: cfg}
	f.ctx, f.end = context.WithCancel(ctx)
	f.mu.counts = map[raid.ServerID]*member{}
	for range 8 {
		c, err := metaclient.New(cfg.URLs, metaclient.WithPatience(30*time.Second))
		if err != nil {
			return nil, err
		}
		f.clients = append(f.clients, c)
	}
	for i := range cfg.Servers {
		m := &member{id: raid.ServerID(fmt.Sprintf("s%04d", i))}
		f.servers = append(f.servers, m)
		f.mu.counts[m.id] = m
	}
	return f, f.each(cfg.Servers, func(i int) (err error) {
		m := f.servers[i]
		if m.door, err = standin.Start(m.id, 1); err != nil { // the leader dials it
			return err
		}
		return f.client(i).Register(f.ctx, server.Info{ID: m.id, Incarnation: 1, Addr: m.door.Addr(), MemoryTotal: lent})
	})
}

// Close ends all of it.
func (f *Fleet) Close() {
	f.end()
	f.wg.Wait()
	for _, c := range f.clients {
		c.Close()
	}
	for _, m := range f.servers {
		if m.door != nil {
			_ = m.door.Close() // nobody has a session there
		}
	}
}

func (f *Fleet) client(i int) *metaclient.Client { return f.clients[i%len(f.clients)] }

// each runs something for 0 to n-1, some at a time.
func (f *Fleet) each(n int, do func(int) error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all error
	next := make(chan int)
	for range 16 {
		wg.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					mu.Lock()
					all = errors.Join(all, err)
					mu.Unlock()
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	return all
}

// Beat has all servers send heartbeats from now on.
func (f *Fleet) Beat() {
	for i, m := range f.servers {
		f.wg.Go(func() {
			for f.sleep(f.cfg.Beat) {
				m.beat(f, f.client(i))
			}
		})
	}
}

// sleep waits for about d; false: it is over.
func (f *Fleet) sleep(d time.Duration) bool {
	select {
	case <-time.After(d*3/4 + rand.N(d/2)):
		return true
	case <-f.ctx.Done():
		return false
	}
}

func (m *member) beat(f *Fleet, c *metaclient.Client) {
	m.mu.Lock()
	quiet, chunks, told := m.quiet, slices.Clone(m.chunks), m.told
	m.mu.Unlock()
	if quiet {
		return
	}
	hash := fnv.New64a()
	for _, id := range chunks {
		_, _ = fmt.Fprint(hash, id, " ") // never fails
	}
	hb := server.Heartbeat{ID: m.id, Incarnation: 1, MemoryTotal: lent, MemoryUsed: uint64(len(chunks)) * chunkBytes, Chunks: chunks, ChunksHash: hash.Sum64()}
	if hb.ChunksUnchanged = hb.ChunksHash == told; hb.ChunksUnchanged {
		hb.Chunks = nil
	}
	begin := time.Now()
	r, err := c.Heartbeat(f.ctx, hb)
	took := time.Since(begin)
	m.mu.Lock()
	switch {
	case err != nil || r.ListChunks:
		m.told = 0
	default:
		m.told = hb.ChunksHash
		m.chunks = slices.DeleteFunc(m.chunks, func(id raid.ChunkID) bool { return slices.Contains(r.Drop, id) })
	}
	m.mu.Unlock()
	f.note(&f.mu.beats, took, err)
}

func (f *Fleet) note(to *loadgen.Histogram, took time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	to.Add(took)
	if err != nil && f.ctx.Err() == nil {
		f.mu.errs = append(f.mu.errs, err)
	}
}

// Create makes the volumes, one after another, attaches each and renews its lease from then
// on, and has the servers hold its chunks. It gives how long each creation took.
func (f *Fleet) Create(progress func(int)) (took loadgen.Histogram, err error) {
	for i := range f.cfg.Volumes {
		name := fmt.Sprintf("v%04d", i)
		// As much as makes so many groups: a chunk is packed to four fifths, one row of it is the view's.
		size := uint64(f.cfg.Groups) * uint64(f.cfg.Geometry.K) * chunkBytes * 3 / 4
		begin := time.Now()
		_, err = f.client(i).CreateVolume(f.ctx, metaclient.VolumeSpec{Name: name, Size: size, Redundancy: f.cfg.Geometry, ChunkBytes: chunkBytes, FailureDomain: "server"})
		took.Add(time.Since(begin))
		if err != nil {
			return took, err
		}
		layout, _, err := f.client(i).Attach(f.ctx, client.AttachRequest{Volume: name, Holder: "client-" + name})
		if err != nil {
			return took, err
		}
		f.hold(layout)
		f.wg.Go(func() {
			for f.sleep(f.cfg.Renew) {
				begin := time.Now()
				_, err := f.client(i).Renew(f.ctx, layout.Volume, layout.Epoch, client.Report{State: client.StateHealthy, RedundancyLeft: f.cfg.Geometry.M})
				f.note(&f.mu.renewals, time.Since(begin), err)
			}
		})
		progress(i + 1)
	}
	return took, nil
}

func (f *Fleet) hold(l *raid.Layout) {
	of := map[raid.ServerID][]raid.ChunkID{}
	for _, g := range l.Groups {
		for _, m := range g.Members {
			of[m.Server] = append(of[m.Server], m.Chunk)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, chunks := range of {
		m := f.mu.counts[id]
		m.mu.Lock()
		m.chunks = append(m.chunks, chunks...)
		slices.Sort(m.chunks)
		m.mu.Unlock()
	}
}

// Silence has one server say nothing any more.
func (f *Fleet) Silence(i int) raid.ServerID {
	m := f.servers[i]
	m.mu.Lock()
	defer m.mu.Unlock()
	m.quiet = true
	return m.id
}

// Chunks is how many chunks servers hold, in all.
func (f *Fleet) Chunks() (n int) {
	for _, m := range f.servers {
		m.mu.Lock()
		n += len(m.chunks)
		m.mu.Unlock()
	}
	return n
}

// Taken gives the times of heartbeats and renewals since it was asked last, and errors.
func (f *Fleet) Taken() (beats, renewals loadgen.Histogram, errs []error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	beats, renewals, errs = f.mu.beats, f.mu.renewals, f.mu.errs
	f.mu.beats, f.mu.renewals, f.mu.errs = loadgen.Histogram{}, loadgen.Histogram{}, nil
	return beats, renewals, errs
}

// Meta is a client of the metadata.
func (f *Fleet) Meta() *metaclient.Client { return f.clients[0] }
