package client

import (
	"errors"
	"testing"

	"dmps/raid"
)

// A server that lives lacks a chunk of a volume without redundancy, which an earlier
// client has written. It is not made anew: its pages would read as zeros.
func TestInPlaceChunkIsNotMadeAnew(t *testing.T) {
	f := newFakeNet(2)
	l := f.layout(raid.LayoutStriped, raid.Geometry{K: 1}, 64, 2, 32)
	v := openTest(t, f, l)
	page := make([]byte, raid.PageSize)
	page[0] = 7
	for i := range 64 {
		if _, err := v.WriteAt(page, int64(i)*raid.PageSize); err != nil {
			t.Fatal(err)
		}
	}
	closeTest(t, v)
	gone := l.Groups[1].Members[0]
	f.mu.Lock()
	delete(f.servers[string(gone.Server)].chunks, uint64(gone.Chunk))
	f.mu.Unlock()
	next := *l
	next.Epoch, next.FirstEpoch = 2, false
	v, err := Open(t.Context(), Config{Layout: &next, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(), AllowSwappable: true})
	if err != nil {
		t.Log(err)
		return
	}
	defer closeTest(t, v)
	for i := range 64 {
		got := make([]byte, raid.PageSize)
		if _, err := v.ReadAt(got, int64(i)*raid.PageSize); err == nil && got[0] != 7 {
			t.Fatalf("page %d reads as zeros", i)
		}
	}
}

// The same while it is attached.
func TestInPlaceChunkGoneWhileAttached(t *testing.T) {
	f := newFakeNet(2)
	l := f.layout(raid.LayoutStriped, raid.Geometry{K: 1}, 64, 2, 32)
	v := openTest(t, f, l)
	defer closeTest(t, v)
	page := make([]byte, raid.PageSize)
	page[0] = 7
	for i := range 64 {
		if _, err := v.WriteAt(page, int64(i)*raid.PageSize); err != nil {
			t.Fatal(err)
		}
	}
	f.lose(l.Groups[1].Members[0])
	wait(t, "the loss is told", v, func() bool { return v.Report().State == StateFailed })
	lost := 0
	for i := range 64 {
		got := make([]byte, raid.PageSize)
		_, err := v.ReadAt(got, int64(i)*raid.PageSize)
		switch {
		case errors.Is(err, ErrLost):
			lost++
		case err != nil || got[0] != 7:
			t.Fatalf("page %d: %v, %d", i, err, got[0])
		}
	}
	if lost != 32 {
		t.Errorf("%d pages are lost", lost)
	}
}
