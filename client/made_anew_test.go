package client

import (
	"context"
	"testing"
	"time"

	"dmps/raid"
)

// A chunk that a server lost and that is made anew does not vouch for what was never
// answered: with another member away the volume is refused, and no page reads as zeros.
func TestChunkMadeAnewDoesNotTestify(t *testing.T) {
	f := newFakeNet(3)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 512)
	v := openTest(t, f, l)
	page := make([]byte, raid.PageSize)
	for i := range 64 {
		for j := range page {
			page[j] = byte(i + j%7 + 1)
		}
		if _, err := v.WriteAt(page, int64(i)*raid.PageSize); err != nil {
			t.Fatal(err)
		}
	}
	closeTest(t, v)
	gone := l.Groups[0].Members[1]
	f.mu.Lock()
	delete(f.servers[string(gone.Server)].chunks, uint64(gone.Chunk))
	f.mu.Unlock()
	f.kill(string(l.Groups[0].Members[2].Server))
	next := *l
	next.Epoch, next.FirstEpoch = 2, false
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	v, err := Open(ctx, Config{Layout: &next, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(), AllowSwappable: true})
	if err != nil {
		if ctx.Err() != nil {
			t.Error(err)
		}
		return
	}
	defer closeTest(t, v)
	t.Error("opened with one member that has what was written, of two that are needed")
	for i := range 64 {
		if _, err := v.ReadAt(page, int64(i)*raid.PageSize); err == nil && page[0] != byte(i+1) {
			t.Fatalf("page %d reads as something else", i)
		}
	}
}
