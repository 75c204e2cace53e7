package server

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// fakeMeta is a Registrar that remembers.
type fakeMeta struct {
	mu        sync.Mutex
	registers []Info
	beats     []Heartbeat
	at        []time.Time // of each of these
	reply     HeartbeatReply
	err       error
}

func (f *fakeMeta) Register(_ context.Context, i Info) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.registers = append(f.registers, i)
	return f.err
}

func (f *fakeMeta) Heartbeat(_ context.Context, hb Heartbeat) (HeartbeatReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.beats, f.at = append(f.beats, hb), append(f.at, time.Now())
	return f.reply, f.err
}

func (f *fakeMeta) set(r HeartbeatReply, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reply, f.err = r, err
}

func (f *fakeMeta) counts() (int, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.registers), len(f.beats)
}

func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meta := &fakeMeta{reply: HeartbeatReply{Cluster: "c"}}
		s, err := New(Config{ID: "a", Memory: 1 << 20, Registrar: meta, Labels: map[string]string{"host": "h"}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := s.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		if s.Cluster() != "c" || len(meta.registers) != 1 || meta.registers[0].Labels["host"] != "h" || meta.registers[0].MemoryTotal != 1<<20 {
			t.Fatalf("cluster %q, %+v", s.Cluster(), meta.registers)
		}
		if _, err := s.openChunk(5, 1, transport.ChunkSpec{Slots: 10, HeaderBytes: raid.HeaderSize}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second) // virtual
		r, b := meta.counts()
		listed, last := meta.beats[1], meta.beats[b-1]
		if r != 1 || b < 8 || b > 14 || !slices.Equal(listed.Chunks, []raid.ChunkID{5}) || !last.ChunksUnchanged || last.MemoryUsed != 11*4096 {
			t.Fatalf("%d registrations, %d beats, the second %+v, the last %+v", r, b, listed, last)
		}
		// Meta forgot the server.
		meta.set(HeartbeatReply{Unknown: true}, nil)
		time.Sleep(3 * time.Second) // two beats with the longest jitter
		if r, _ = meta.counts(); r < 2 {
			t.Error("not registered again")
		}
		// Meta is away: no more attempts than heartbeats, and service goes on.
		meta.set(HeartbeatReply{}, errors.New("away"))
		time.Sleep(20 * time.Second)
		_, b = meta.counts()
		r, _ = meta.counts()
		time.Sleep(time.Minute)
		r2, b2 := meta.counts()
		if n := r2 + b2 - r - b; n < 50 || n > 75 {
			t.Errorf("%d attempts a minute", n)
		}
		// A foreign meta is not obeyed.
		meta.set(HeartbeatReply{Cluster: "other", Drop: []raid.ChunkID{5}}, nil)
		time.Sleep(30 * time.Second)
		if s.lookup(5) == nil || s.Cluster() != "c" {
			t.Error("a foreign meta was obeyed")
		}
		meta.set(HeartbeatReply{Cluster: "c", Drop: []raid.ChunkID{5, 6}}, nil)
		time.Sleep(30 * time.Second)
		if s.lookup(5) != nil || s.Stats().MemoryUsed != 0 {
			t.Error("the chunk was not given back")
		}
	})
}

// However long meta was away, it hears of every server well before it would suspect it, and
// not of all at once.
func TestSoonHeardAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meta := &fakeMeta{reply: HeartbeatReply{Cluster: "c"}}
		s, err := New(Config{ID: "a", Memory: 1 << 20, AllowSwappable: true, Registrar: meta, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		meta.set(HeartbeatReply{}, errors.New("away"))
		time.Sleep(10 * time.Minute)
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
		least, most := time.Hour, time.Duration(0)
		for i := len(meta.at) - 100; i < len(meta.at); i++ {
			gap := meta.at[i].Sub(meta.at[i-1])
			least, most = min(least, gap), max(most, gap)
		}
		if most > 1250*time.Millisecond || least < 750*time.Millisecond || most-least < 250*time.Millisecond {
			t.Errorf("it tries again after %v to %v", least, most)
		}
	})
}

// A server lists its chunks when meta has no list or they have changed, and says otherwise
// that they have not.
func TestChunksAreListedOnce(t *testing.T) {
	meta := &fakeMeta{}
	s, err := New(Config{ID: "a", Memory: 1 << 20, AllowSwappable: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.c.Registrar = meta // it reports when it is told to
	defer func() {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	registered, told := false, uint64(0)
	beat := func(lists bool) Heartbeat {
		t.Helper()
		if err := s.reportOnce(t.Context(), &registered, &told); err != nil {
			t.Fatal(err)
		}
		hb := meta.beats[len(meta.beats)-1]
		if hb.ChunksUnchanged == lists || hb.ChunksHash == 0 || !lists && hb.Chunks != nil {
			t.Errorf("%+v", hb)
		}
		return hb
	}
	first := beat(true)
	if again := beat(false); again.ChunksHash != first.ChunksHash {
		t.Error("the same chunks have another hash")
	}
	s.mu.Lock()
	s.mu.chunks[7] = &chunk{}
	s.mu.Unlock()
	if hb := beat(true); hb.ChunksHash == first.ChunksHash || len(hb.Chunks) != 1 {
		t.Errorf("with a chunk more: %+v", hb)
	}
	beat(false)
	s.mu.Lock()
	delete(s.mu.chunks, 7)
	s.mu.Unlock()
	if hb := beat(true); hb.ChunksHash != first.ChunksHash || len(hb.Chunks) != 0 {
		t.Errorf("without it: %+v", hb)
	}
	// A new leader asks, and gets the list at once.
	meta.set(HeartbeatReply{ListChunks: true}, nil)
	n := len(meta.beats)
	if err := s.reportOnce(t.Context(), &registered, &told); err != nil || len(meta.beats) != n+2 || meta.beats[n+1].ChunksUnchanged {
		t.Errorf("%v, %+v", err, meta.beats[n:])
	}
	// It was not heard: nobody has the list.
	meta.set(HeartbeatReply{}, errors.New("no"))
	told = 0
	if err := s.reportOnce(t.Context(), &registered, &told); err == nil || told != 0 {
		t.Errorf("%v, told %d", err, told)
	}
	// It registers anew: meta has nothing of it.
	meta.set(HeartbeatReply{Unknown: true}, nil)
	if err := s.reportOnce(t.Context(), &registered, &told); err != nil || registered {
		t.Error(err)
	}
	meta.set(HeartbeatReply{}, nil)
	beat(true)
}

// The hash of a list tells chunks apart that have large ids, as after a restore.
func TestHashOfChunks(t *testing.T) {
	seen := map[uint64]bool{}
	for _, ids := range [][]raid.ChunkID{nil, {0}, {1}, {0, 0}, {0, 1}, {1 << 32}, {1<<32 + 1}, {1 << 56}, {1, 1 << 40}} {
		h := hashOf(ids)
		if h == 0 || seen[h] {
			t.Errorf("%v: %d", ids, h)
		}
		seen[h] = true
	}
}

// A server says that the client of a volume is there, and not that somebody reads: a reader
// keeps nobody from the volume.
func TestOwnedIsByItsOwner(t *testing.T) {
	s := start(t, Config{Cluster: "c", Listen: "127.0.0.1:0"})
	d, _, _ := client(t, s, 1)
	if _, _, err := d.Dial(t.Context(), s.Addr(), transport.Hello{Cluster: "c", Volume: 2, Epoch: 1, Mode: transport.ModeReader}, nil); err != nil {
		t.Fatal(err)
	}
	if ids := s.owned(); !slices.Equal(ids, []raid.VolumeID{1}) {
		t.Errorf("volumes %v have their client here", ids)
	}
}
