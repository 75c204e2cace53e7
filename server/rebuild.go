package server

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"dmps/internal/pace"
	"dmps/raid"
	"dmps/transport"
)

// rebuildWorkers is the largest number of batches of one request that are under
// way at a time: while one is decoded, others are on the line. On two cores four
// took more CPU a byte than two (docs/benchmarks.md, "Healing"); on more nobody
// has measured.
const rebuildWorkers = 4

// rebuild is one request to fill slots of a chunk from other servers, or to
// verify them.
//
//  1. Session.Rebuild checks the target and starts workers.
//  2. A worker takes the next rows, at most 32: a batch (rebuild_batch.go).
//  3. plan chooses the sources of each row, as preferred, and of those alive.
//  4. pull reads from all of them at once, into buffers of the pool.
//  5. inspect parses headers and compares checksums (rebuild_row.go); a source
//     that fails is given up, for the row or altogether, and its rows are
//     planned anew.
//  6. decode makes header and page, byte by byte what the client wrote.
//  7. land stores them, unless the session is over.
//
// To verify, a batch begins with the slots themselves and ends with a
// comparison instead (rebuild_verify.go).
type rebuild struct {
	session *session
	spec    *transport.RebuildSpec
	geo     raid.Geometry
	coder   *raid.Coder
	target  *chunk
	sources []*pullSource // in the order of preference
	byCol   [transport.MaxRebuildMembers]*pullSource
	pace    pace.Pace // of this request
	step    int       // rows of a batch

	pulled  atomic.Uint64
	checked atomic.Uint64
	stale   atomic.Bool                // a source has seen a newer lease
	fails   []transport.RebuildFailure // by row; of the worker that has it. No reason: it did not fail

	mu struct {
		sync.Mutex
		next int   // first row that no worker has
		err  error // why the workers stop early
	}
}

// Rebuild implements transport.Session.
func (s *session) Rebuild(ctx context.Context, spec *transport.RebuildSpec) (transport.RebuildResult, error) {
	var none transport.RebuildResult
	if !s.s.beginRebuild() {
		return none, fmt.Errorf("%w: server is closing", transport.ErrClosed)
	}
	defer s.s.rebuilding.Done()
	r, err := s.newRebuild(spec)
	if err != nil {
		return none, fmt.Errorf("rebuilding slots of chunk %d: %w", spec.Chunk, err)
	}
	if !r.target.pin() {
		return none, fmt.Errorf("rebuilding slots of chunk %d: %w", spec.Chunk, transport.ErrNoChunk)
	}
	defer r.target.unpin()
	s.links.use()
	defer s.links.leave()
	var wg sync.WaitGroup
	for range min(r.workers(), (len(spec.Rows)+r.step-1)/r.step) {
		wg.Go(func() { r.work(ctx) })
	}
	wg.Wait()
	if r.mu.err != nil {
		return none, fmt.Errorf("rebuilding slots of chunk %d: %w", spec.Chunk, r.mu.err)
	}
	res := transport.RebuildResult{Pulled: r.pulled.Load(), Checked: r.checked.Load()}
	for _, f := range r.fails {
		if f.Reason != 0 {
			res.Failed = append(res.Failed, f)
		}
	}
	if n := len(res.Failed); n > 0 {
		what := "rows could not be rebuilt"
		if spec.Verify {
			what = "slots were not found right"
		}
		s.s.c.Log.Warn(what, "volume", s.volume.id, "chunk", spec.Chunk, "rows", len(spec.Rows), "failed", n,
			"first", spec.Rows[res.Failed[0].Row].Index, "column", res.Failed[0].Col, "why", res.Failed[0].Reason)
	}
	return res, nil
}

// workers is how many batches are under way at a time. With nothing to pull one
// core is enough, and the rest is for pages.
func (r *rebuild) workers() int {
	switch {
	case r.local():
		return 1
	case r.pace.Rate() != 0:
		return 1 // likewise
	}
	return batchesAtATime(runtime.GOMAXPROCS(0))
}

// batchesAtATime is how many batches of a request that has no limit are under
// way: as many as there are cores, but two on one core, so that the line is not
// idle while one is decoded.
func batchesAtATime(cores int) int { return min(max(2, cores), rebuildWorkers) }

// beginRebuild counts a rebuild, unless the server is closing.
func (s *Server) beginRebuild() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closing {
		return false
	}
	s.rebuilding.Add(1)
	return true
}

// newRebuild checks the request against the target.
func (s *session) newRebuild(spec *transport.RebuildSpec) (*rebuild, error) {
	if err := s.alive(); err != nil {
		return nil, err
	}
	if s.hello.Mode != transport.ModeOwner {
		return nil, fmt.Errorf("%w: a reader does not rebuild", transport.ErrRefused)
	}
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	g := raid.Geometry{K: spec.K, M: spec.M}
	coder, err := raid.NewCoder(g)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", transport.ErrRefused, err)
	}
	c := s.s.lookup(raid.ChunkID(spec.Chunk))
	switch {
	case c == nil || c.volume != s.volume.id:
		return nil, transport.ErrNoChunk
	case c.spec.InPlace:
		return nil, fmt.Errorf("%w: its slots are overwritten in place", transport.ErrRefused)
	case int(c.spec.HeaderBytes) != raid.HeaderBytes(g, raid.Col(spec.Col)):
		return nil, fmt.Errorf("%w: it has headers of %d bytes, not those of column %d of %v", transport.ErrNoChunk, c.spec.HeaderBytes, spec.Col, g)
	}
	for i := range spec.Rows {
		if x := spec.Rows[i].Index; x >= c.spec.Slots {
			return nil, fmt.Errorf("%w: slot %d of %d", transport.ErrNoChunk, x, c.spec.Slots)
		}
	}
	r := &rebuild{
		session: s, spec: spec, geo: g, coder: coder, target: c,
		fails: make([]transport.RebuildFailure, len(spec.Rows)),
	}
	r.pace.Set(float64(spec.RateBytes))
	r.step = stepRows(g, spec.RateBytes, int64(s.s.pace.Rate()))
	for i := range spec.Sources {
		o := &pullSource{
			links: &s.links, key: linkKey{spec.Sources[i].Addr, spec.Sources[i].Incarnation},
			chunk: spec.Sources[i].Chunk, col: raid.Col(spec.Sources[i].Col),
			headerBytes: raid.HeaderBytes(g, raid.Col(spec.Sources[i].Col)),
			dialling:    make(chan struct{}, 1),
		}
		r.sources = append(r.sources, o)
		r.byCol[o.col] = o
	}
	return r, nil
}

// stepRows is how many rows a batch has: 32, or with a rate what it allows in
// 5 ms. Whoever sets a rate wants pages to come through: they wait behind a gust
// on the line, and on a machine of few cores for the cores too.
func stepRows(g raid.Geometry, rates ...int64) int {
	n := int64(transport.MaxSegs)
	for _, rate := range rates {
		if rate != 0 {
			n = min(n, rate/200/int64(g.K*raid.PageSize))
		}
	}
	return max(1, int(n))
}

// work does batches until none is left or the request ends.
func (r *rebuild) work(ctx context.Context) {
	b := newRebuildBatch(r)
	for {
		r.mu.Lock()
		from := r.mu.next
		to := min(from+r.step, len(r.spec.Rows))
		if r.mu.err != nil {
			to = from
		}
		r.mu.next = to
		r.mu.Unlock()
		if from == to {
			return
		}
		if err := b.run(ctx, from, to); err != nil {
			r.mu.Lock()
			if r.mu.err == nil {
				r.mu.err = err
			}
			r.mu.Unlock()
			return
		}
	}
}

// land stores a row's slot, exactly as a write does: unless the session is
// over, which is an error. Close waits for it. It reports false when the slot
// holds a newer row: then the client used it again, against the contract, and
// what it wrote must not be lost for it.
func (s *session) land(c *chunk, index uint32, seq raid.Seq, head, page []byte) (bool, error) {
	s.landing.RLock()
	defer s.landing.RUnlock()
	if err := s.alive(); err != nil {
		return false, err
	}
	if s.closed.Load() {
		return false, transport.ErrClosed
	}
	return c.putUnlessNewer(index, seq, head, page), nil
}

// pullSource is a member that a request may read from.
type pullSource struct {
	links       *links
	key         linkKey
	chunk       uint64
	col         raid.Col
	headerBytes int
	dialling    chan struct{} // holds one token: workers wait for one handshake together

	mu struct {
		sync.Mutex
		link  *link
		fails int
		dead  transport.RebuildReason // why it is not used any more; 0: it is
	}
}

// get returns the session with the source, or nil when it is dead or ctx ends.
func (o *pullSource) get(ctx context.Context) *link {
	if l, dead := o.state(); l != nil || dead != 0 {
		return l
	}
	select {
	case o.dialling <- struct{}{}:
		defer func() { <-o.dialling }()
	case <-ctx.Done():
		return nil
	}
	if l, dead := o.state(); l != nil || dead != 0 {
		return l // another worker was here
	}
	l, err := o.links.get(ctx, o.key)
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.giveUpLocked(err)
		return nil
	}
	o.mu.link = l
	return l
}

func (o *pullSource) state() (*link, transport.RebuildReason) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.link, o.mu.dead
}

func (o *pullSource) giveUpLocked(err error) {
	o.mu.dead = reasonOf(err)
	o.links.s.s.c.Log.Warn("a source of a rebuild is given up", "volume", o.links.s.volume.id, "source", clip(o.key.addr), "err", err)
}

// fail notes that a read through l did not succeed. A session that ended is
// made again, once; anything else is final.
func (o *pullSource) fail(l *link, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mu.link != l || o.mu.dead != 0 {
		return // somebody else noted it
	}
	o.mu.link = nil
	o.mu.fails++
	if o.mu.fails > 1 || reasonOf(err) != transport.RebuildUnreachable || errors.Is(err, transport.ErrDeadline) {
		o.giveUpLocked(err)
	}
}

func (o *pullSource) dead() transport.RebuildReason {
	_, why := o.state()
	return why
}

// reasonOf is what a failed read or handshake makes of its rows.
func reasonOf(err error) transport.RebuildReason {
	switch {
	case errors.Is(err, transport.ErrStaleEpoch):
		return transport.RebuildStaleEpoch
	case errors.Is(err, transport.ErrNoChunk), errors.Is(err, transport.ErrRefused), errors.Is(err, transport.ErrIncarnation),
		errors.Is(err, transport.ErrChecksum), errors.Is(err, transport.ErrNoMemory):
		return transport.RebuildRefused
	}
	return transport.RebuildUnreachable
}
