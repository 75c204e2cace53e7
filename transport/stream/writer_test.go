package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// counter counts releases; more or fewer than one is an error.
type counter struct{ n atomic.Int32 }

func (c *counter) Released() { c.n.Add(1) }

func newWriter(t testing.TB, network string, buf int) (*Writer, io.ReadCloser) {
	t.Helper()
	a, b := pair(t, network, buf)
	w, err := NewWriter(a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w, b
}

func appendFrame(w *Writer, who, seq, n int, page []byte, rel Releaser) error {
	if err := w.Begin(); err != nil {
		return err
	}
	h := w.Bytes(6)
	binary.LittleEndian.PutUint32(h, uint32(n))
	h[4] = byte(who)
	h[5] = byte(seq)
	w.Ref(page[:n])
	copy(w.Bytes(2), "ab")
	w.End(rel)
	return nil
}

// Concurrent appenders over sockets of any size: every frame arrives whole,
// each appender's frames in order, every releaser is told once.
func TestWriterConcurrent(t *testing.T) {
	for network, buf := range map[string]int{"tcp": 64 << 10, "unix": 1} { // 1: the kernel's minimum
		w, b := newWriter(t, network, buf)
		const who, frames = 8, 200
		rels := make([]counter, who*frames)
		var wg sync.WaitGroup
		for i := range who {
			wg.Go(func() {
				page := pattern(9000, byte(i))
				for s := range frames {
					if err := appendFrame(w, i, s, (s*37)%9000, page, &rels[i*frames+s]); err != nil {
						t.Error(err)
						return
					}
					w.Flush()
				}
			})
		}
		var next [who]int
		for range who * frames {
			var h [6]byte
			if _, err := io.ReadFull(b, h[:]); err != nil {
				t.Fatal(err)
			}
			n, i := binary.LittleEndian.Uint32(h[:]), int(h[4])
			if h[5] != byte(next[i]) {
				t.Fatalf("appender %d: frame %d, not %d", i, h[5], byte(next[i]))
			}
			next[i]++
			body := make([]byte, n+2)
			if _, err := io.ReadFull(b, body); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(body[:n], pattern(int(n), byte(i))) || string(body[n:]) != "ab" {
				t.Fatalf("appender %d: other bytes", i)
			}
		}
		wg.Wait()
		if err := w.WaitTaken(w.end); err != nil {
			t.Fatal(err)
		}
		if w.Queued() != 0 {
			t.Errorf("%d bytes queued at the end", w.Queued())
		}
		w.Close()
		for i := range rels {
			if n := rels[i].n.Load(); n != 1 {
				t.Fatalf("frame %d was released %d times", i, n)
			}
		}
		if len(w.q.free)+1 > 40 {
			t.Errorf("%d free blocks", len(w.q.free))
		}
	}
}

// With a peer that reads nothing, appending and flushing return, and Close
// releases everything once.
func TestWriterCloseWhileFull(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		w, _ := newWriter(t, network, 1<<10)
		rels := make([]counter, 500)
		page := make([]byte, 9000)
		var last uint64
		for i := range rels {
			if err := appendFrame(w, 0, i, len(page), page, &rels[i]); err != nil {
				t.Fatal(err)
			}
			w.Flush()
		}
		if w.Queued() == 0 {
			t.Fatal("the socket took everything: not full")
		}
		last = w.end
		waited := make(chan error)
		go func() { waited <- w.WaitTaken(last) }()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(w.Close)
		}
		wg.Wait()
		if err := <-waited; err != ErrWriterClosed {
			t.Errorf("waiting ended with %v", err)
		}
		for i := range rels {
			if n := rels[i].n.Load(); n != 1 {
				t.Fatalf("%s: frame %d was released %d times", network, i, n)
			}
		}
		if err := w.Begin(); err != ErrWriterClosed {
			t.Errorf("begin after close: %v", err)
		}
	}
}

func TestWriterPeerGone(t *testing.T) {
	w, b := newWriter(t, "unix", 0)
	b.Close()
	var rel counter
	if err := appendFrame(w, 0, 0, 100, make([]byte, 100), &rel); err != nil {
		t.Fatal(err)
	}
	w.Flush()
	if rel.n.Load() != 1 || w.Err() == nil {
		t.Errorf("released %d times, error %v", rel.n.Load(), w.Err())
	}
	if err := w.Begin(); err == nil {
		t.Error("a failed writer took a frame")
	}
	why := errors.New("why")
	w.Fail(why)
	if errors.Is(w.Err(), why) {
		t.Error("the first error was replaced")
	}
}

// What other goroutines append while one is flushing goes out with that one's
// next call.
func TestWriterGroupCommit(t *testing.T) {
	w, b := newWriter(t, "unix", 1<<20)
	page := make([]byte, 10)
	// Take the flusher's place.
	w.mu.Lock()
	w.flushing = true
	w.mu.Unlock()
	for i := range 50 {
		if err := appendFrame(w, 0, i, 10, page, nil); err != nil {
			t.Fatal(err)
		}
		w.Flush()
	}
	if w.Calls() != 0 {
		t.Fatal("two goroutines flushed")
	}
	w.mu.Lock()
	w.flushing = false
	w.mu.Unlock()
	w.Flush()
	if _, err := io.ReadFull(b, make([]byte, 50*18)); err != nil {
		t.Fatal(err)
	}
	if w.Calls() != 1 {
		t.Errorf("%d calls", w.Calls())
	}
}

// more appends and flushes from Released.
type more struct {
	w *Writer
	n int
}

func (m *more) Released() {
	if m.n--; m.n >= 0 {
		if err := appendFrame(m.w, 0, m.n, 4, make([]byte, 4), m); err == nil {
			m.w.Flush()
		}
	}
}

func TestWriterAppendFromReleased(t *testing.T) {
	w, b := newWriter(t, "tcp", 0)
	m := &more{w: w, n: 10}
	m.Released()
	if _, err := io.ReadFull(b, make([]byte, 10*12)); err != nil {
		t.Fatal(err)
	}
}

func TestWriterSteadyStateAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	a, b := pair(t, "unix", 0)
	w, err := NewWriter(a)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r, err := NewReader(b, DefaultStage)
	if err != nil {
		t.Fatal(err)
	}
	_ = b.SetReadDeadline(time.Now().Add(time.Minute))
	page, rel := make([]byte, 4096), new(counter)
	bufs := [][]byte{make([]byte, 4096)}
	n := testing.AllocsPerRun(1000, func() {
		for i := range 4 {
			if err := appendFrame(w, 0, i, 4096, page, rel); err != nil {
				t.Fatal(err)
			}
		}
		w.Flush()
		for range 4 {
			if _, err := r.Next(6); err != nil {
				t.Fatal(err)
			}
			if err := r.ReadInto(bufs); err != nil {
				t.Fatal(err)
			}
			if err := r.Discard(2); err != nil {
				t.Fatal(err)
			}
		}
	})
	if n != 0 {
		t.Errorf("%v allocations a round", n)
	}
}
