package crashloop

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"dmps/transport"
)

// wire is the network as one client sees it: what it sends takes its time,
// passes gates, and may be cut off at any transfer. It is the transport.Dialer of
// one life, before a Dialer of transport/mem.
type wire struct {
	inner transport.Dialer
	gates map[string]gates
	slow  time.Duration // most that a batch takes on either way

	dead chan struct{} // closed by crash: the client's machine has lost its power
	once sync.Once

	transfers atomic.Int64 // requests submitted so far
	crashAt   atomic.Int64 // the transfer at which the client crashes; 0: none
	hush      atomic.Pointer[hush]

	mu sync.Mutex
	r  *rand.Rand
}

// hush begins at the first request for pages, or the n-th of any kind, and ends after
// a time.
type hush struct {
	pages      bool
	n          int64
	limit      time.Duration
	begin, end func()

	mu    sync.Mutex
	over  bool
	timer *time.Timer // nil: it has not begun
}

func (h *hush) start() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over || h.timer != nil {
		return
	}
	h.begin()
	h.timer = time.AfterFunc(h.limit, h.stop)
}

func (h *hush) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over && h.timer != nil {
		h.timer.Stop()
		h.end()
	}
	h.over = true
}

// quiet ends what was arranged for the time in which the volume is opened.
func (w *wire) quiet() {
	if h := w.hush.Load(); h != nil {
		h.stop()
	}
}

func newWire(inner transport.Dialer, seed uint64, slow time.Duration) *wire {
	return &wire{inner: inner, gates: map[string]gates{}, slow: slow, dead: make(chan struct{}), r: rand.New(rand.NewPCG(seed, 3))}
}

// crash cuts everything off at once. It may be called from anywhere.
func (w *wire) crash() { w.once.Do(func() { close(w.dead) }) }

func (w *wire) crashed() bool {
	select {
	case <-w.dead:
		return true
	default:
		return false
	}
}

// count notes a request that was submitted.
func (w *wire) count(r *transport.Request) {
	n := w.transfers.Add(1)
	if at := w.crashAt.Load(); at != 0 && n >= at {
		w.crash()
	}
	h := w.hush.Load()
	if h == nil {
		return
	}
	if h.pages && r.Op == transport.OpRead || !h.pages && n >= h.n {
		h.start()
	}
}

// least is how long a batch travels at least: were it nothing, a client that asks
// again and again would never let the time go on.
const least = 100 * time.Microsecond

// way is how long a batch travels.
func (w *wire) way() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.slow == 0 || w.r.IntN(2) == 0 {
		return least
	}
	return least + time.Duration(w.r.Int64N(int64(w.slow)))
}

// arrives is how many of n requests arrive that were on their way when their
// connection broke, and of how many slots of the one after them.
func (w *wire) arrives(n int) (whole, slots int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch w.r.IntN(3) {
	case 0:
		return 0, 0
	case 1:
		return n, 0
	}
	return w.r.IntN(n + 1), w.r.IntN(transport.MaxSegs)
}

// Register implements transport.Dialer.
func (w *wire) Register(mem []byte) error { return w.inner.Register(mem) }

// Close implements transport.Dialer.
func (w *wire) Close() error { return w.inner.Close() }

// Dial implements transport.Dialer.
func (w *wire) Dial(ctx context.Context, addr string, h transport.Hello, idle func()) (transport.Conn, transport.Welcome, error) {
	var none transport.Welcome
	gs, ok := w.gates[addr]
	if !ok {
		return nil, none, fmt.Errorf("no way to %s", addr)
	}
	if w.crashed() {
		return nil, none, errCut
	}
	passed, err := gs.pass(ctx.Done(), w.dead)
	switch {
	case err != nil:
		return nil, none, fmt.Errorf("dialling %s: %w", addr, err)
	case !passed && ctx.Err() != nil:
		return nil, none, ctx.Err()
	case !passed:
		return nil, none, errCut
	}
	inner, welcome, err := w.inner.Dial(ctx, addr, h, nil)
	if err != nil {
		return nil, welcome, err
	}
	c := &conn{
		w: w, inner: inner, gs: gs, idle: idle,
		bell: make(chan struct{}, 1), cut: make(chan struct{}), done: make(chan struct{}),
		flight: make(map[*transport.Request]struct{}),
	}
	c.alarm.Init(c.rang)
	go c.run()
	go c.watch()
	return c, welcome, nil
}

// conn is a session over a wire. Its goroutine carries one batch after another
// there and back.
type conn struct {
	w     *wire
	inner transport.Conn
	gs    gates
	idle  func()
	bell  chan struct{}
	cut   chan struct{} // closed with cause
	done  chan struct{}

	mu     sync.Mutex
	cause  error
	flight map[*transport.Request]struct{}
	queue  []*transport.Request // submitted, not kicked
	ready  []*transport.Request // kicked
	alarm  transport.Alarm
}

var _ transport.Conn = (*conn)(nil)

// watch ends the session when the server or a gate does.
func (c *conn) watch() {
	broken := make(chan error, 1)
	go func() { broken <- c.gs.down(c.done) }()
	select {
	case <-c.inner.Done():
		// The word of it has to come through, too.
		if ok, err := c.gs.pass(c.cut, c.w.dead); ok {
			c.Abort(c.inner.Err())
		} else if err != nil {
			c.Abort(err)
		}
	case err := <-broken:
		if err != nil {
			c.Abort(err)
		}
		return
	case <-c.w.dead:
		c.Abort(errCut)
	case <-c.cut:
	}
	<-broken
}

// Abort implements transport.Conn.
func (c *conn) Abort(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.cause = cause
		close(c.cut)
	}
}

// Close implements transport.Conn.
func (c *conn) Close() error {
	c.Abort(transport.ErrClosed)
	<-c.done
	return nil
}

// Done implements transport.Conn.
func (c *conn) Done() <-chan struct{} { return c.done }

// Err implements transport.Conn.
func (c *conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// Window implements transport.Conn.
func (c *conn) Window() int { return c.inner.Window() }

// Submit implements transport.Conn.
func (c *conn) Submit(r *transport.Request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.cause != nil:
		return transport.ErrClosed
	case len(c.flight) == c.inner.Window():
		return transport.ErrWindowFull
	}
	c.flight[r] = struct{}{}
	r.Err = nil
	c.queue = append(c.queue, r)
	c.alarm.Set(r.Deadline)
	c.w.count(r)
	return nil
}

// rang ends the session when a request is late.
func (c *conn) rang() {
	c.mu.Lock()
	late := c.alarm.Rang(maps.Keys(c.flight))
	c.mu.Unlock()
	if late {
		c.Abort(transport.ErrDeadline)
	}
}

// answer ends a request.
func (c *conn) answer(r *transport.Request, err error) {
	c.mu.Lock()
	delete(c.flight, r)
	if err != nil && errors.Is(c.cause, transport.ErrDeadline) && !r.Deadline.IsZero() && !time.Now().Before(r.Deadline) {
		err = transport.ErrDeadline
	}
	c.mu.Unlock()
	r.Err = err
	r.Done(r)
}

// Kick implements transport.Conn. What is sent after the power was lost, or the
// connection has broken, does not leave the machine.
func (c *conn) Kick() {
	if c.w.crashed() || c.gs.mode() >= gateDown {
		return
	}
	c.mu.Lock()
	c.ready = append(c.ready, c.queue...)
	c.queue = c.queue[:0]
	c.mu.Unlock()
	select {
	case c.bell <- struct{}{}:
	default:
	}
}

// OpenChunk implements transport.Conn.
func (c *conn) OpenChunk(ctx context.Context, chunk uint64, spec transport.ChunkSpec) error {
	return c.call(ctx, func() error { return c.inner.OpenChunk(ctx, chunk, spec) })
}

// Rebuild implements transport.Conn.
func (c *conn) Rebuild(ctx context.Context, spec *transport.RebuildSpec) (res transport.RebuildResult, err error) {
	err = c.call(ctx, func() (err error) {
		res, err = c.inner.Rebuild(ctx, spec)
		return err
	})
	if err != nil {
		res = transport.RebuildResult{}
	}
	return res, err
}

// call carries a call there, and its answer back.
func (c *conn) call(ctx context.Context, f func() error) error {
	if err := c.passes(ctx); err != nil {
		return err
	}
	err := f()
	if lost := c.passes(ctx); lost != nil {
		return lost
	}
	return err
}

func (c *conn) passes(ctx context.Context) error {
	ok, err := c.gs.pass(ctx.Done(), c.cut)
	switch {
	case err != nil:
		return transport.ErrClosed
	case ok && !c.w.crashed():
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return transport.ErrClosed
}

// rest waits, and reports false when the session ends before.
func (c *conn) rest(d time.Duration) bool {
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.cut:
			return false
		}
	}
	select {
	case <-c.cut:
		return false
	case <-c.w.dead:
		return false
	default:
	}
	ok, _ := c.gs.pass(c.cut, c.w.dead)
	return ok
}

func (c *conn) run() {
	defer close(c.done)
	var sent []*transport.Request // whose outcome nobody hears of
	for sent == nil {
		select {
		case <-c.bell:
		case <-c.cut:
		}
		c.mu.Lock()
		batch, over := c.ready, c.cause != nil
		c.ready = nil
		c.mu.Unlock()
		if over || !c.rest(c.w.way()) {
			c.mu.Lock()
			c.ready = append(batch, c.ready...) // it has not arrived
			c.mu.Unlock()
			break
		}
		errs := c.forward(batch, transport.MaxSegs, c.cut)
		if !c.rest(c.w.way()) {
			sent = batch
			break
		}
		for i, r := range batch {
			c.answer(r, errs[i])
		}
		if len(batch) > 0 && c.idle != nil {
			c.idle()
		}
	}
	// Nothing is answered any more until the session is ended by whoever is
	// entitled to, or the client has lost its power.
	<-c.cut
	c.end(sent)
}

// end delivers a part of what was on its way, and answers all of it with an error.
func (c *conn) end(sent []*transport.Request) {
	c.mu.Lock()
	late, never := c.ready, c.queue
	c.ready, c.queue = nil, nil
	cause := c.cause
	c.mu.Unlock()
	if whole, slots := c.w.arrives(len(late)); whole > 0 || slots > 0 && len(late) > 0 {
		frozen := make(chan struct{}) // closed when the server should have done it
		t := time.AfterFunc(time.Millisecond, func() { close(frozen) })
		c.forward(late[:whole], transport.MaxSegs, frozen)
		if whole < len(late) && slots > 0 {
			c.forward(late[whole:whole+1], slots, frozen)
		}
		t.Stop()
	}
	_ = c.inner.Close()
	err := transport.ErrClosed
	if errors.Is(cause, transport.ErrStaleEpoch) {
		err = transport.ErrFenced
	}
	for _, l := range [][]*transport.Request{sent, late, never} {
		for _, r := range l {
			c.answer(r, err)
		}
	}
	c.mu.Lock()
	c.alarm.Stop()
	c.mu.Unlock()
	if c.idle != nil {
		c.idle()
	}
}

// forward gives a batch to the server and returns how each request ended. Of
// writes it gives only the first slots. A server that has not done it when limit is
// closed is frozen, and never does.
func (c *conn) forward(batch []*transport.Request, slots int, limit <-chan struct{}) []error {
	errs := make([]error, len(batch))
	var wg sync.WaitGroup
	for i, r := range batch {
		q := &transport.Request{Op: r.Op, Chunk: r.Chunk, Segs: r.Segs, Count: r.Count}
		if q.Op == transport.OpWrite {
			q.Segs = q.Segs[:min(slots, len(q.Segs))]
		}
		wg.Add(1)
		q.Done = func(q *transport.Request) {
			errs[i] = q.Err
			wg.Done()
		}
		if err := c.inner.Submit(q); err != nil {
			errs[i] = err
			wg.Done()
		}
	}
	c.inner.Kick()
	over := make(chan struct{})
	go func() { wg.Wait(); close(over) }()
	select {
	case <-over:
	case <-limit:
		c.inner.Abort(errCut)
		<-over
	}
	return errs
}
