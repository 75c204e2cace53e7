package server

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"dmps/raid"
	"dmps/transport"
)

// mib is large beside pages and small beside gatherPiece.
const mib = 1 << 20

// lockedArena is one of 12 MiB, and what the process had locked before.
func lockedArena(t *testing.T) (*arena, int) {
	t.Helper()
	before := lockedBytes(t)
	a, err := newArena(12*mib, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.close(); err != nil {
			t.Error(err)
		}
		if got := lockedBytes(t); got != before {
			t.Errorf("%d bytes are still locked", got-before)
		}
	})
	if !a.locked {
		t.Skip("memory cannot be locked here")
	}
	return a, before
}

// What is put together in several pieces is all locked and zero, and like the rest no
// child gets it.
func TestGatheredInPieces(t *testing.T) {
	a, before := lockedArena(t)
	g, err := a.gather([]extent{{mib / 2, mib}, {2 * mib, 3 * mib}, {6 * mib, 3*mib + 4096}})
	if err != nil {
		t.Fatal(err)
	}
	if got := lockedBytes(t) - before; got != 12*mib {
		t.Errorf("%d bytes are locked", got)
	}
	if b := a.bytes(g.got); len(b) != 7*mib+4096 || bytes.Count(b, []byte{0}) != len(b) {
		t.Errorf("%d bytes, not all of them zero", len(b))
	}
	var all int64
	for _, x := range a.maps {
		all += x.size
		for _, at := range []int64{x.off, x.off + x.size - 4096} {
			if f := vmFlags(t, uintptr(a.pointer(at))); !slices.Contains(f, "dc") || !slices.Contains(f, "lo") {
				t.Errorf("memory at %d has flags %v: a child has it too (no dc), or it is not locked (no lo)", at, f)
			}
		}
	}
	if all != 12*mib {
		t.Errorf("mappings of %d bytes: closing would unmap what is somebody else's", all)
	}
}

// Memory that the system had for a while is locked again before it is lent.
func TestLentAgainIsLocked(t *testing.T) {
	s := start(t, Config{Cluster: "c", Memory: 4 * mib, AllowSwappable: true})
	if !s.arena.locked {
		t.Skip("memory cannot be locked here")
	}
	before := lockedBytes(t)
	if _, err := s.openChunk(1, 1, transport.ChunkSpec{Slots: 256, HeaderBytes: raid.HeaderSize}); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.mu.short = true
	s.mu.Unlock()
	s.Drop([]raid.ChunkID{1})
	swept(t, s)
	if got := lockedBytes(t); got > before-mib {
		t.Errorf("%d bytes are locked of %d: the host got nothing", got, before)
	}
	s.mu.Lock()
	s.mu.short = false
	s.mu.Unlock()
	s.lendAgain(1<<40, 0)
	if got := lockedBytes(t); got != before {
		t.Errorf("%d bytes are locked of %d", got, before)
	}
}

// Pieces that are done are free when a later one fails, what is neither here nor there is
// told apart, and the addresses of the rest are nobody's.
func TestGatherFailsInTheMiddle(t *testing.T) {
	a, before := lockedArena(t)
	wrong := extent{7*mib + 1, 2 * mib} // no page begins there: the system refuses it
	last := extent{10 * mib, mib}
	g, err := a.gather([]extent{{0, 3 * mib}, {4 * mib, 2 * mib}, wrong, last})
	if err == nil {
		t.Fatal("a run that is no run was taken")
	}
	if len(g.free) != 3 || g.free[0].size != 4*mib || g.free[1] != wrong || g.free[2] != last || g.back != (extent{g.free[0].off + 4*mib, mib}) {
		t.Fatalf("free %v, to be had again %v", g.free, g.back)
	}
	if got := lockedBytes(t) - before; got != 11*mib {
		t.Errorf("%d bytes are locked, without what the system has", got)
	}
	rest := a.bytes(extent{g.back.off + g.back.size, 4096})
	if err := unix.Msync(rest, unix.MS_ASYNC); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("what was not needed is still mapped: %v", err)
	}
	for _, x := range []extent{{0, 4096}, {5 * mib, 4096}} {
		if err := unix.Msync(a.bytes(x), unix.MS_ASYNC); !errors.Is(err, unix.ENOMEM) {
			t.Errorf("what was given to the system is still mapped: %v", err)
		}
	}
	if err := a.populate(g.back); err != nil {
		t.Fatal(err)
	}
	fill(a.bytes(extent{g.free[0].off, 5 * mib}), 1)
	if got := lockedBytes(t) - before; got != 12*mib {
		t.Errorf("%d bytes are locked", got)
	}
}

// vmFlags is what the kernel notes of the mapping at an address.
func vmFlags(t *testing.T, at uintptr) []string {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in := false
	for s := bufio.NewScanner(f); s.Scan(); {
		var from, to uintptr
		if n, _ := fmt.Sscanf(s.Text(), "%x-%x ", &from, &to); n == 2 {
			in = from <= at && at < to
		}
		if flags, ok := strings.CutPrefix(s.Text(), "VmFlags:"); ok && in {
			return strings.Fields(flags)
		}
	}
	t.Fatalf("nothing is mapped at %x", at)
	return nil
}
