package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"dmps/raid"
)

// What was answered after more than M were lost is there when the client starts anew and
// serves what is left: also rows that only members know which are being rebuilt. With
// up to M of all servers away it is there or an error, and never older. What was lost before is the right page, or an error,
// or the volume says that pages are gone of which it is not known which.
func TestWrittenSinceTheLoss(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 4, M: 2}, {K: 2, M: 1}, {K: 3, M: 2}, {K: 1, M: 1}, {K: 1, M: 2}} {
		for _, away := range []int{0, g.M} {
			for _, clean := range []bool{false, true} {
				for _, slow := range []bool{false, true} {
					t.Run(fmt.Sprint(g, " ", away, " away, closed ", clean, ", one before the others ", slow), func(t *testing.T) {
						seed := rand.Uint64()
						t.Logf("seed %#x", seed)
						s := &since{g: g, f: newFakeNet(g.Members()), rnd: rand.New(rand.NewPCG(seed, 1)), slow: slow}
						s.lose(t)
						s.write(t, clean)
						s.again(t, away)
					})
				}
			}
		}
	}
}

// keeper is a metadata service that keeps what it hears of unknown pages.
type keeper struct{ *fakeMeta }

func (k *keeper) Renew(ctx context.Context, v raid.VolumeID, e raid.Epoch, r Report) (uint64, error) {
	k.mu.Lock()
	k.layout.Unknown = r.Unknown
	k.mu.Unlock()
	return k.fakeMeta.Renew(ctx, v, e, r)
}

const sincePages = 128

// since is a volume that loses more than it can bear, and is written afterwards.
type since struct {
	g       raid.Geometry
	f       *fakeNet
	m       *keeper
	rnd     *rand.Rand
	v       *Volume
	version [sincePages]uint64
	since   [sincePages]bool // it was written after the loss
	read    [sincePages]bool // it could be read when the client ended
	slow    bool             // the first server counted as being rebuilt when the others were lost
}

// lose fills the volume, and has M+1 servers come back empty.
func (s *since) lose(t *testing.T) {
	l := s.f.layout(raid.LayoutLog, s.g, sincePages, 3, 256)
	s.m = &keeper{newFakeMeta(l)}
	s.v = openTest(t, s.f, l, s.config)
	all := make([]byte, sincePages*raid.PageSize)
	for p := range s.version {
		s.version[p] = 1
		stamp(all[p*raid.PageSize:][:raid.PageSize], p, 1)
	}
	if _, err := s.v.WriteAt(all, 0); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for k, i := range s.rnd.Perm(s.g.Members())[:s.g.M+1] {
		id := fmt.Sprint("s", i)
		s.f.kill(id)
		s.f.restart(id)
		if k > 0 || !s.slow {
			ids = append(ids, id)
			continue
		}
		s.m.reseat(s.f, id)
		s.m.mu.Lock()
		s.m.deaf = true // it has all, and counts as being rebuilt all the same
		s.m.mu.Unlock()
		await(t, s.v, "the first one is filled", func(r Report) bool {
			s.v.mu.Lock()
			defer s.v.mu.Unlock()
			return len(r.Suspect) == 0 && s.v.mu.version > 0 && r.State == StateHealthy
		})
	}
	s.m.reseat(s.f, ids...)
	s.m.mu.Lock()
	s.m.deaf = false
	version := s.m.layout.Version
	s.m.mu.Unlock()
	await(t, s.v, "all members are there", func(r Report) bool {
		s.v.mu.Lock()
		defer s.v.mu.Unlock()
		return len(r.Suspect) == 0 && s.v.mu.version >= version && s.v.mu.log.Writable()
	})
}

func (s *since) config(c *Config) {
	c.Meta, c.Lease = s.m, Lease{TTL: time.Second, Renew: 10 * time.Millisecond}
}

// write writes single pages, which few members know of, and ends the client.
func (s *since) write(t *testing.T, clean bool) {
	b := make([]byte, raid.PageSize)
	for _, p := range s.rnd.Perm(sincePages)[:sincePages/2] {
		for i := range 1 + s.rnd.IntN(2) {
			off := int64(p) * raid.PageSize
			var err error
			if s.rnd.IntN(4) == 0 {
				s.version[p] = 0
				err = s.v.Trim(off, raid.PageSize)
			} else {
				s.version[p] = uint64(2 + i)
				stamp(b, p, s.version[p])
				_, err = s.v.WriteAt(b, off)
			}
			if err != nil {
				t.Fatalf("page %d: %v", p, err)
			}
		}
		s.since[p] = true
	}
	for p, r := range s.readAll() {
		if s.read[p] = r.err == nil; s.read[p] && stamped(r.b, p, s.version[p]) != nil {
			t.Errorf("before the client ends: %v", stamped(r.b, p, s.version[p]))
		}
	}
	if clean {
		closeTest(t, s.v)
		return
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = s.v.Close(ctx) // it dies
}

// pageRead is what a page reads as.
type pageRead struct {
	b   []byte
	err error
}

// readAll reads every page, all at once: each one that is gone waits for the patience.
func (s *since) readAll() (pages [sincePages]pageRead) {
	var wg sync.WaitGroup
	for p := range pages {
		wg.Go(func() {
			r := &pages[p]
			r.b = make([]byte, raid.PageSize)
			_, r.err = s.v.ReadAt(r.b, int64(p)*raid.PageSize)
		})
	}
	wg.Wait()
	return pages
}

// again starts another client while some servers are away, and reads everything.
func (s *since) again(t *testing.T, away int) {
	for _, i := range s.rnd.Perm(s.g.Members())[:away] {
		s.f.down(fmt.Sprint("s", i), true)
	}
	l, _ := s.m.Layout(t.Context(), 1, 0)
	l.Epoch, l.FirstEpoch = l.Epoch+1, false
	cfg := Config{Layout: l, Dialer: s.f, ArenaBytes: 4 << 20, Logger: quiet(), Patience: time.Second, DialTimeout: time.Second}
	s.config(&cfg)
	if v, err := Open(t.Context(), cfg); err == nil {
		// All that was lost may have been written anew, or moved.
		s.v = v
	} else {
		cfg.AcceptLoss = true
		l.Epoch++
		s.v = openTest(t, s.f, l, func(c *Config) { *c = cfg })
	}
	defer closeTest(t, s.v)
	wrong, lost := 0, 0
	for p, r := range s.readAll() {
		b, err, version := r.b, r.err, s.version[p]
		switch {
		case err != nil && !errors.Is(err, ErrLost):
			t.Fatalf("page %d: %v", p, err)
		case err != nil && (s.since[p] || s.read[p]) && away == 0: // else rows wait for who is away that few were up for
			t.Errorf("page %d was written since, or could be read: %v", p, err)
		case err != nil:
			lost++
		case stamped(b, p, version) == nil:
		case (s.since[p] || s.read[p]) && (away == 0 || !cfg.AcceptLoss):
			t.Errorf("page %d was written since, or could be read: %v", p, stamped(b, p, version))
		default:
			wrong++
		}
	}
	r := s.v.Report()
	t.Logf("of pages before the loss %d are gone, and %d are zeros; unknown: %d, accepted %v", lost, wrong, r.Unknown, cfg.AcceptLoss)
	if (wrong > 0 || cfg.AcceptLoss) && (r.Unknown == 0 || r.State != StateFailed) {
		t.Errorf("%d pages are wrong, unknown %d, %s", wrong, r.Unknown, r.State)
	}
	if lost > 0 && r.State != StateFailed {
		t.Errorf("%d pages are lost, %s", lost, r.State)
	}
}

// With fewer than K servers up a client refuses, unless what is left is to be served: then
// it is read, and nothing else can be done with it. The volume is not healthy.
func TestFewerThanKAreRead(t *testing.T) {
	g := raid.Geometry{K: 4, M: 2}
	s := &since{g: g, f: newFakeNet(g.Members()), rnd: rand.New(rand.NewPCG(1, 1))}
	l := s.f.layout(raid.LayoutLog, g, sincePages, 3, 256)
	s.m = &keeper{newFakeMeta(l)}
	s.v = openTest(t, s.f, l, s.config)
	all := make([]byte, sincePages*raid.PageSize)
	for p := range sincePages {
		stamp(all[p*raid.PageSize:][:raid.PageSize], p, 1)
	}
	if _, err := s.v.WriteAt(all, 0); err != nil {
		t.Fatal(err)
	}
	closeTest(t, s.v)
	for i := range g.M + 1 {
		s.f.down(fmt.Sprint("s", i), true)
	}
	again, _ := s.m.Layout(t.Context(), 1, 0)
	again.Epoch, again.FirstEpoch = 2, false
	cfg := Config{Layout: again, Dialer: s.f, ArenaBytes: 4 << 20, Logger: quiet(), Patience: time.Second, DialTimeout: time.Second}
	s.config(&cfg)
	if v, err := Open(t.Context(), cfg); err == nil {
		closeTest(t, v)
		t.Fatal("it opened with three of six servers")
	}
	cfg.AcceptLoss = true
	v, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer closeTest(t, v)
	s.v = v
	right := 0
	for p, r := range s.readAll() {
		switch {
		case errors.Is(r.err, ErrLost):
		case r.err != nil:
			t.Fatal(r.err)
		case stamped(r.b, p, 1) == nil:
			right++
		}
	}
	// One batch, in a group of which one data column is left.
	if r := v.Report(); right != sincePages/g.K || r.State != StateFailed || r.Unknown == 0 {
		t.Errorf("%d of %d pages are right, %s, %d unknown", right, sincePages, r.State, r.Unknown)
	}
	if _, err := v.WriteAt(make([]byte, raid.PageSize), 0); !errors.Is(err, ErrNoSpace) {
		t.Errorf("a write: %v", err)
	}
}
