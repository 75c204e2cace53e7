package transporttest

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"dmps/transport"
)

func testWindow(t *testing.T, m Medium) {
	r := newRig(t, m)
	c := r.session()
	qs := make([]*transport.Request, window)
	for i := range qs {
		qs[i] = r.request(transport.OpRead, 0, uint32(i))
	}
	if m.Stall == nil {
		t.Skip("the medium cannot stall")
	}
	m.Stall(true)
	wait := r.start(c, qs)
	extra := r.request(transport.OpRead, 0, 0)
	extra.Done = func(*transport.Request) { t.Error("a refused request was completed") }
	if err := c.Submit(extra); err != transport.ErrWindowFull {
		t.Errorf("request %d: %v", window+1, err)
	}
	m.Stall(false)
	wait()
	for _, q := range qs {
		if q.Err != nil {
			t.Error(q.Err)
		}
	}
	if err := r.do(c, extra); err != nil {
		t.Error(err)
	}
}

func testIdle(t *testing.T, m Medium) {
	r := newRig(t, m)
	idle := make(chan int32, 100)
	var done atomic.Int32
	c := r.dial(r.hello(1), func() {
		select {
		case idle <- done.Load():
		default:
		}
	})
	if err := c.OpenChunk(ctx(t), chunk, spec); err != nil {
		t.Fatal(err)
	}
	for i := range window {
		q := r.request(transport.OpRead, 0, uint32(i))
		q.Done = func(*transport.Request) { done.Add(1) }
		if err := c.Submit(q); err != nil {
			t.Fatal(err)
		}
	}
	c.Kick()
	for end := time.After(time.Minute); ; {
		select {
		case n := <-idle:
			if n == window {
				return
			}
		case <-end:
			t.Fatal("no idle call after the last completion")
		}
	}
}

func testDoneNotInside(t *testing.T, m Medium) {
	r := newRig(t, m)
	c := r.session()
	var inside atomic.Bool
	q := r.request(transport.OpRead, 0, 0)
	done := make(chan struct{})
	left := 200
	q.Done = func(*transport.Request) {
		if inside.Load() {
			// Another goroutine may be between the stores: what must not
			// happen is that it is this one, which then could not go on.
			t.Log("completed while submitting")
		}
		if left--; left == 0 {
			close(done)
			return
		}
		// Done may submit.
		if err := c.Submit(q); err != nil {
			t.Error(err)
			close(done)
			return
		}
		c.Kick()
	}
	inside.Store(true)
	if err := c.Submit(q); err != nil {
		t.Fatal(err)
	}
	c.Kick()
	inside.Store(false)
	r.wait(done)
}

func testDeadline(t *testing.T, m Medium) {
	if m.Stall == nil {
		t.Skip("the medium cannot stall")
	}
	r := newRig(t, m)
	c := r.session()
	// A deadline that is kept does nothing, also when it passes afterwards.
	q := r.request(transport.OpRead, 0, 0)
	q.Deadline = time.Now().Add(20 * time.Millisecond)
	if err := r.do(c, q); err != nil {
		t.Fatal(err)
	}
	m.Stall(true)
	defer m.Stall(false)
	early, late, none := r.request(transport.OpWrite, 1, 0), r.request(transport.OpRead, 0, 1), r.request(transport.OpRead, 0, 2)
	start := time.Now()
	late.Deadline = start.Add(time.Hour)
	early.Deadline = start.Add(60 * time.Millisecond)
	r.start(c, []*transport.Request{late, early, none})()
	if d := time.Since(start); d < 60*time.Millisecond || d > 3*time.Second {
		t.Errorf("ended after %v", d)
	}
	if early.Err != transport.ErrDeadline {
		t.Errorf("late: %v", early.Err)
	}
	if late.Err != transport.ErrClosed || none.Err != transport.ErrClosed {
		t.Errorf("others: %v, %v", late.Err, none.Err)
	}
	r.wait(c.Done())
	if !errors.Is(c.Err(), transport.ErrDeadline) {
		t.Errorf("session ended with %v", c.Err())
	}
}

// After Close no memory of a request is touched any more: the server, thawed
// and with everything in its socket, changes nothing.
func testCloseInFlight(t *testing.T, m Medium) {
	if m.Stall == nil {
		t.Skip("the medium cannot stall")
	}
	r := newRig(t, m)
	c := r.session()
	w := r.request(transport.OpWrite, 1, 0, 1, 2, 3)
	if err := r.do(c, w); err != nil {
		t.Fatal(err)
	}
	m.Stall(true)
	var qs []*transport.Request
	for range window / 2 {
		qs = append(qs, r.request(transport.OpRead, 0, 0, 1, 2, 3), r.request(transport.OpWrite, 2, 10, 11))
	}
	wait := r.start(c, qs)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	wait()
	for i, q := range qs {
		if !errors.Is(q.Err, transport.ErrClosed) {
			t.Errorf("request %d: %v", i, q.Err)
		}
		for _, s := range q.Segs {
			for k := range s.Page {
				s.Page[k] = 0xEE
			}
		}
	}
	m.Stall(false)
	d := newRig(t, m)
	c = d.session() // the old session is over at the server too
	if err := d.do(c, d.request(transport.OpRead, 0, 0)); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte{0xEE}, transport.PageSize)
	for _, q := range qs {
		for _, s := range q.Segs {
			if !bytes.Equal(s.Page, want) {
				t.Fatal("memory was touched after Close")
			}
		}
	}
}

func testAbortFromDone(t *testing.T, m Medium) {
	r := newRig(t, m)
	c := r.session()
	why := errors.New("why")
	q := r.request(transport.OpRead, 0, 0)
	q.Done = func(*transport.Request) { c.Abort(why) }
	if err := c.Submit(q); err != nil {
		t.Fatal(err)
	}
	c.Kick()
	r.wait(c.Done())
	if err := c.Err(); !errors.Is(err, why) || !errors.Is(err, transport.ErrClosed) {
		t.Errorf("session ended with %v", err)
	}
}

func testAfterClose(t *testing.T, m Medium) {
	r := newRig(t, m)
	c := r.session()
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	q := r.request(transport.OpRead, 0, 0)
	q.Done = func(*transport.Request) { t.Error("a refused request was completed") }
	if err := c.Submit(q); err != transport.ErrClosed {
		t.Errorf("submit: %v", err)
	}
	c.Kick()
	if err := c.OpenChunk(ctx(t), chunk, spec); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("open: %v", err)
	}
	c.Abort(nil)
}

func testAllocations(t *testing.T, m Medium) {
	if instrumented || !m.Allocs {
		t.Skip("not to be counted here")
	}
	r := newRig(t, m)
	c := r.session()
	for _, op := range []transport.Op{transport.OpWrite, transport.OpRead} {
		q := r.request(op, 1, 0, 1, 2, 9)
		done := make(chan struct{}, 1)
		q.Done = func(*transport.Request) { done <- struct{}{} }
		n := testing.AllocsPerRun(500, func() {
			q.Deadline = time.Now().Add(time.Second)
			if err := c.Submit(q); err != nil {
				t.Fatal(err)
			}
			c.Kick()
			<-done
		})
		if n != 0 || q.Err != nil {
			t.Errorf("operation %d: %v allocations a request, client and server; %v", op, n, q.Err)
		}
	}
}
