package server

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"dmps/raid"
	"dmps/transport"
)

// Whatever was lent and given back, also to the system: a chunk can be had whenever as
// much is free as it takes. It is zero, and no other one changes for it.
func TestFreeMemoryIsLent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const pages = 64
		s := start(t, Config{Cluster: "c", Memory: pages * raid.PageSize, AllowSwappable: true})
		defer s.Close(t.Context())
		lent := make(map[raid.ChunkID]transport.ChunkSpec)
		rt.Repeat(map[string]func(*rapid.T){
			"open": func(rt *rapid.T) {
				spec := transport.ChunkSpec{Slots: rapid.Uint32Range(1, 24).Draw(rt, "slots"), HeaderBytes: raid.HeaderSize, InPlace: true}
				id := raid.ChunkID(rapid.IntRange(1, 1000).Filter(func(i int) bool { _, ok := lent[raid.ChunkID(i)]; return !ok }).Draw(rt, "id"))
				free := s.Stats().MemoryTotal - s.Stats().MemoryUsed
				c, err := s.openChunk(id, 1, spec)
				if fits := uint64(chunkSize(spec)) <= free; fits != (err == nil) || !fits && !errors.Is(err, transport.ErrNoMemory) {
					rt.Fatalf("%d bytes of %d that are free: %v", chunkSize(spec), free, err)
				}
				if err != nil {
					return
				}
				for _, b := range [][]byte{c.pages, c.heads} {
					if bytes.Count(b, []byte{0}) != len(b) {
						rt.Fatal("a new chunk is not zero")
					}
					fill(b, byte(id))
				}
				lent[id] = spec
			},
			"drop": func(rt *rapid.T) {
				for id := range lent {
					if rapid.Bool().Draw(rt, "this") {
						s.Drop([]raid.ChunkID{id})
						delete(lent, id)
					}
				}
				swept(t, s)
			},
			"drop while short": func(rt *rapid.T) {
				s.mu.Lock()
				s.mu.short = true
				s.mu.Unlock()
				for id := range lent {
					s.Drop([]raid.ChunkID{id})
					delete(lent, id)
					break
				}
				swept(t, s)
				s.mu.Lock()
				s.mu.short = false
				s.mu.Unlock()
			},
			"lend again": func(*rapid.T) { s.lendAgain(1<<40, 0) },
			"": func(rt *rapid.T) {
				for id, spec := range lent {
					c := s.lookup(id)
					if c.spec != spec || bytes.Count(c.pages, []byte{byte(id)}) != len(c.pages) || bytes.Count(c.heads, []byte{byte(id)}) != len(c.heads) {
						rt.Fatalf("chunk %d has changed", id)
					}
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				if err := s.mu.free.check(); err != nil {
					rt.Fatal(err)
				}
			},
		})
	})
}

func fill(b []byte, v byte) {
	for i := range b {
		b[i] = v
	}
}

// What is put together stays locked: the kernel counts as much as before.
func TestGatheredMemoryIsLocked(t *testing.T) {
	const size = 64 * raid.PageSize
	before := lockedBytes(t)
	a, err := newArena(size, true)
	if err != nil {
		t.Fatal(err)
	}
	if !a.locked {
		a.close()
		t.Skip("memory cannot be locked here")
	}
	// Memory that was given back once may leave several mappings of the kernel's.
	back := extent{16 * raid.PageSize, 8 * raid.PageSize}
	if err := errors.Join(a.vacate(back), a.populate(back)); err != nil {
		t.Fatal(err)
	}
	g, err := a.gather([]extent{{40 * raid.PageSize, 8 * raid.PageSize}, {8 * raid.PageSize, 20 * raid.PageSize}})
	if err != nil {
		t.Fatal(err)
	}
	if got := lockedBytes(t) - before; got != size {
		t.Errorf("%d bytes are locked, not %d", got, size)
	}
	if b := a.bytes(g.got); len(b) != 28*raid.PageSize || bytes.Count(b, []byte{0}) != len(b) {
		t.Errorf("%d bytes, not all of them zero", len(b))
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	if got := lockedBytes(t); got != before {
		t.Errorf("%d bytes are still locked", got-before)
	}
}

func lockedBytes(t *testing.T) int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(string(regexp.MustCompile(`VmLck:\s*(\d+) kB`).FindSubmatch(b)[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

// A server that has too many mappings says so, keeps what is free, and lends it when
// it lies together.
func TestTooManyMappings(t *testing.T) {
	s := start(t, Config{Cluster: "c", Memory: 16 * raid.PageSize, AllowSwappable: true})
	s.arena.limit = 3
	open := func(id raid.ChunkID, slots uint32) error {
		_, err := s.openChunk(id, 1, transport.ChunkSpec{Slots: slots, HeaderBytes: raid.HeaderSize})
		return err
	}
	for id := range raid.ChunkID(4) {
		if err := open(id+1, 3); err != nil {
			t.Fatal(err)
		}
	}
	s.Drop([]raid.ChunkID{1, 3})
	swept(t, s)
	if err := open(5, 7); !errors.Is(err, transport.ErrNoMemory) || !regexp.MustCompile("vm.max_map_count").MatchString(err.Error()) {
		t.Fatal(err)
	}
	if free := s.Stats().MemoryTotal - s.Stats().MemoryUsed; free != 8*raid.PageSize {
		t.Errorf("%d bytes are free", free)
	}
	s.arena.limit = 1000
	if err := open(5, 7); err != nil {
		t.Fatal(err)
	}
}

// How many mappings a server comes to whose volumes come and go, of chunks of all sizes
// and always as full as they fit: far fewer than a process may have.
func TestMappingsStayFew(t *testing.T) {
	const (
		page  = raid.PageSize
		total = int64(64 << 30)
	)
	r := rand.New(rand.NewPCG(1, 2))
	e, m := newExtents(total), mappings{{0, total}}
	next := total * 2
	var lent []extent
	most, gathered := 0, 0
	for range 20000 {
		size := chunkSize(transport.ChunkSpec{Slots: 256 << r.IntN(7), HeaderBytes: uint32(raid.HeaderSize + raid.RowEntrySize*4*r.IntN(2))})
		for e.left < size {
			k := r.IntN(len(lent))
			e.give(lent[k])
			lent[k] = lent[len(lent)-1]
			lent = lent[:len(lent)-1]
		}
		runs := e.take(size)
		x := runs[0]
		if len(runs) > 1 {
			gathered++
			for _, run := range runs {
				m = m.remove(run)
			}
			x = extent{next, size}
			m = m.add(x)
			next += size + page
		}
		lent = append(lent, x)
		most = max(most, len(m))
	}
	t.Logf("%d chunks, %d of them put together, %d mappings at most", len(lent), gathered, most)
	if most > 65530/4 {
		t.Errorf("%d mappings", most)
	}
}

// The system takes memory and does not give as much again: that is withheld, neither lent
// nor free, until it can be had. The rest is lent as before.
func TestGatheredMemoryIsRefused(t *testing.T) {
	s, open := withheld(t)
	st := s.Stats()
	if st.MemoryTotal != 8*raid.PageSize || st.MemoryUsed != st.MemoryTotal {
		t.Errorf("%d of %d bytes are used", st.MemoryUsed, st.MemoryTotal)
	}
	s.lendAgain(1<<40, 0)
	if err := open(5, 7); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.MemoryTotal != 16*raid.PageSize || st.MemoryUsed != st.MemoryTotal {
		t.Errorf("%d of %d bytes are used", st.MemoryUsed, st.MemoryTotal)
	}
}

// within calls f on a thread that may lock no more than limit bytes, in all of the process.
func within(t *testing.T, limit uint64, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with what it may not
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		err := unix.Capget(&head, &caps[0])
		caps[0].Effective &^= 1 << unix.CAP_IPC_LOCK
		var old unix.Rlimit
		if err = errors.Join(err, unix.Capset(&head, &caps[0]), unix.Getrlimit(unix.RLIMIT_MEMLOCK, &old)); err == nil {
			err = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: limit, Max: old.Max})
		}
		if err == nil {
			f()
			err = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &old)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
