package rails_test

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dmps/server"
	"dmps/transport"
)

// A session that only reads, as those of rebuilds do, uses all rails, and goes on
// over the others when one is cut or frozen.
func TestReaderFailover(t *testing.T) {
	r := start(t, server.Config{}, true)
	mem := mapMemory(t, 2<<20)
	c := r.session(t, 1, mem)
	rest := mem
	var stored []transport.Seg
	for i := range uint32(slots) {
		s := seg(&rest, i)
		fill(s, uint64(i)+1)
		stored = append(stored, s)
	}
	if err := do(t, c, &transport.Request{Op: transport.OpWrite, Chunk: chunk, Segs: stored[:transport.MaxSegs]}); err != nil {
		t.Fatal(err)
	}

	d := newDialer()
	if err := d.Register(mem); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	reader, w, err := d.Dial(within(t), r.addr, transport.Hello{Cluster: "c", Volume: volume, Epoch: 1, Mode: transport.ModeReader}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if up, all := reader.(transport.Railed).Rails(); up != 2 || all != 2 || w.Window < 2 {
		t.Fatalf("%d of %d rails, a window of %d", up, all, w.Window)
	}
	var stop atomic.Bool
	var count atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop.Store(true)
	for range 8 {
		var into []transport.Seg
		for i := range uint32(transport.MaxSegs) {
			into = append(into, seg(&rest, i))
		}
		wg.Go(func() {
			for !stop.Load() {
				clear(into[0].Page)
				if err := do(t, reader, &transport.Request{Op: transport.OpRead, Chunk: chunk, Segs: into}); err != nil {
					t.Error(err)
					return
				}
				for i := range into {
					if !bytes.Equal(into[i].Page, stored[i].Page) {
						t.Errorf("slot %d: other bytes than written", i)
						return
					}
				}
				count.Add(1)
			}
		})
	}
	more := func(n int64) {
		t.Helper()
		for end, want := time.Now().Add(10*time.Second), count.Load()+n; count.Load() < want; time.Sleep(time.Millisecond) {
			if time.Now().After(end) || t.Failed() {
				t.Fatal("reading does not go on")
			}
		}
	}
	more(100)
	for i, k := range r.link {
		if n := k.passed.Load(); n < 10*transport.PageSize*transport.MaxSegs {
			t.Errorf("rail %d carried %d bytes", i, n)
		}
	}
	for round := range 6 {
		k := r.link[round%2]
		if round/2%2 == 0 {
			k.cut()
		} else {
			k.freeze(true)
		}
		upIs(t, reader, 1)
		more(50)
		k.mend()
		k.freeze(false)
		for _, o := range []transport.Conn{reader, c} {
			if err := allUp(within(t), o); err != nil {
				t.Fatal(err)
			}
		}
	}
	select {
	case <-reader.Done():
		t.Errorf("the session ended: %v", reader.Err())
	case <-c.Done():
		t.Errorf("the owner's session ended: %v", c.Err())
	default:
	}
}
