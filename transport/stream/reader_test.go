package stream

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7+i>>8) + seed
	}
	return b
}

// Whatever mix of calls the reader makes and however the peer cuts its writes,
// the bytes come in order and once.
func TestReaderAnyMix(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b := pair(t, "tcp", 0)
		defer a.Close()
		defer b.Close()
		total := rapid.IntRange(1, 300<<10).Draw(rt, "total")
		seed := rapid.Uint64().Draw(rt, "cuts")
		size := rapid.SampledFrom([]int{16, 100, 4096, DefaultStage}).Draw(rt, "stage")
		want := pattern(total, byte(seed))
		r, err := NewReader(b, size)
		if err != nil {
			rt.Fatal(err)
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 1))
			for p := want; len(p) > 0; {
				n := min(len(p), 1+rnd.IntN(20000))
				if _, err := a.Write(p[:n]); err != nil {
					return
				}
				p = p[n:]
			}
			a.Close()
		})
		pos := 0
		check := func(got []byte) {
			if !bytes.Equal(got, want[pos:pos+len(got)]) {
				rt.Fatalf("other bytes at %d", pos)
			}
			pos += len(got)
		}
		for pos < total {
			left := total - pos
			switch rapid.IntRange(0, 4).Draw(rt, "op") {
			case 0:
				b, err := r.Next(min(left, rapid.IntRange(1, size).Draw(rt, "n")))
				if err != nil {
					rt.Fatal(err)
				}
				check(b)
			case 1:
				n := min(left, rapid.IntRange(1, size).Draw(rt, "n"))
				b, err := r.Peek(n)
				if err != nil {
					rt.Fatal(err)
				}
				check(b)
				pos -= n
				if r.Buffered() < n {
					rt.Fatalf("%d buffered after a peek of %d", r.Buffered(), n)
				}
			case 2:
				n := min(left, rapid.IntRange(0, 50000).Draw(rt, "n"))
				if err := r.Discard(n); err != nil {
					rt.Fatal(err)
				}
				pos += n
			case 3:
				buf := make([]byte, min(left, rapid.IntRange(0, 50000).Draw(rt, "n")))
				if err := r.ReadFull(buf); err != nil {
					rt.Fatal(err)
				}
				check(buf)
			case 4:
				var bufs [][]byte
				for range rapid.IntRange(0, 300).Draw(rt, "bufs") {
					n := min(left, rapid.SampledFrom([]int{0, 1, 40, 4096}).Draw(rt, "n"))
					left -= n
					bufs = append(bufs, make([]byte, n))
				}
				if err := r.ReadInto(bufs); err != nil {
					rt.Fatal(err)
				}
				for _, b := range bufs {
					check(b)
				}
			}
		}
		if _, err := r.Peek(1); err != io.EOF {
			rt.Fatalf("at the end: %v", err)
		}
	})
}

func TestReaderTruncated(t *testing.T) {
	for name, read := range map[string]func(r *Reader) error{
		"next":     func(r *Reader) error { _, err := r.Next(11); return err },
		"discard":  func(r *Reader) error { return r.Discard(11) },
		"readinto": func(r *Reader) error { return r.ReadInto([][]byte{make([]byte, 4), make([]byte, 7)}) },
		"readfull": func(r *Reader) error { return r.ReadFull(make([]byte, 11)) },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, "unix", 0)
			r, err := NewReader(b, 64)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := a.Write(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			a.Close()
			if err := read(r); err != io.ErrUnexpectedEOF {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestReaderDeadlineAndClose(t *testing.T) {
	_, b := pair(t, "tcp", 0)
	r, err := NewReader(b, 64)
	if err != nil {
		t.Fatal(err)
	}
	_ = b.SetReadDeadline(time.Unix(1, 0))
	if _, err := r.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	_ = b.SetReadDeadline(time.Time{})
	done := make(chan error)
	go func() { _, err := r.Peek(1); done <- err }()
	b.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("close: %v", err)
	}
}

func TestNoSocket(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, err := NewReader(a, 64); err == nil {
		t.Error("a pipe became a Reader")
	}
	if _, err := NewWriter(a); err == nil {
		t.Error("a pipe became a Writer")
	}
	c, _ := pair(t, "tcp", 0)
	if _, err := NewReader(c, 8); err == nil {
		t.Error("a stage of 8 bytes was accepted")
	}
}

// A large payload goes to its buffers with the head of the next frame in the
// same call.
func TestReadIntoTakesNextHead(t *testing.T) {
	a, b := pair(t, "unix", 1<<20)
	r, err := NewReader(b, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write(make([]byte, 8192+10)); err != nil {
		t.Fatal(err)
	}
	if err := r.ReadInto([][]byte{make([]byte, 4096), make([]byte, 4096)}); err != nil {
		t.Fatal(err)
	}
	if r.Buffered() != 10 || r.Calls() != 1 {
		t.Errorf("%d bytes staged after %d calls", r.Buffered(), r.Calls())
	}
}
