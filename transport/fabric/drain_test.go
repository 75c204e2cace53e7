//go:build fabric && cgo

package fabric_test

import (
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dmps/raid"
	"dmps/transport"
	"dmps/transport/fabric"
)

// Whatever fills the socket, the last request of a burst is not left lying.
func TestDrain(t *testing.T) {
	const pages, depth = 4, 32
	c := startChild(t, childSpec{Provider: "tcp", Window: 64, Memory: 64 << 20})
	mem, err := unix.Mmap(-1, 0, depth*pages*(transport.PageSize+raid.HeaderSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	d := &fabric.Dialer{Strict: true, Eager: none}
	defer d.Close()
	if err := d.Register(mem); err != nil {
		t.Fatal(err)
	}
	conn, _, err := d.Dial(t.Context(), c.addr, hello(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.OpenChunk(t.Context(), chunk, transport.ChunkSpec{Slots: 8192, HeaderBytes: raid.HeaderSize}); err != nil {
		t.Fatal(err)
	}
	var reqs [depth]transport.Request
	var wg sync.WaitGroup
	free := mem
	take := func(n int) []byte { b := free[:n:n]; free = free[n:]; return b }
	for i := range reqs {
		reqs[i] = transport.Request{Op: transport.OpWrite, Chunk: chunk, Done: func(q *transport.Request) { wg.Done() }}
		for k := range pages {
			reqs[i].Segs = append(reqs[i].Segs, transport.Seg{Index: uint32(i*pages + k), Page: take(transport.PageSize)})
		}
	}
	for i := range reqs {
		for k := range pages {
			reqs[i].Segs[k].Header = take(raid.HeaderSize)
		}
	}
	slow := 0
	for range 50 {
		wg.Add(depth)
		t0 := time.Now()
		for i := range reqs {
			if err := conn.Submit(&reqs[i]); err != nil {
				t.Fatal(err)
			}
			conn.Kick()
		}
		wg.Wait()
		if took := time.Since(t0); took > 40*time.Millisecond {
			slow++
			t.Log(took)
		}
	}
	if slow > 10 {
		t.Errorf("%d of 50 bursts took more than 40 ms", slow)
	}
}
