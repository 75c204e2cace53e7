package client

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"dmps/internal/pace"
	"dmps/raid"
	"dmps/transport"
)

// Volume is an attached volume: the broker. It implements Device for front
// ends, and ReadAt, WriteAt and so on for programs (direct.go).
//
// Locks, in the order in which they may be taken: Volume.mu, then peer.mu,
// then those of pool, xferPool and deadList. No callback of a front end and no
// Close of a transport is called with any of them held.
type Volume struct {
	cfg    Config
	log    *slog.Logger
	layout *raid.Layout
	geo    raid.Geometry
	size   int64

	peers    atomic.Pointer[[]*peer] // replaced, never changed
	memberOf []member                // group * (K+M) + col; guarded by mu, but for columns that a batch in flight is written to
	movers   []member                // likewise: the pending members
	coder    *raid.Coder
	inplace  raid.InPlace // linear and striped layouts; nil: the log

	arena       *arena
	recoverMem  []byte      // the recovery's buffers
	recoverBufs chan []byte // those that nobody has
	user        *pool
	scratch     *pool // rescues
	merges      *pool // old content for sub-page writes
	moves       *pool // what the cleaner reads, and the notes of a recovery
	probes      *pool // what a server on probation is sent
	consts      *constants
	batches     []*batch    // all there are
	cleanings   []*cleaning // likewise
	xfers       xferPool
	dead        deadList

	afters sync.Pool // *after
	// Methods that waiters call, bound once: binding allocates.
	granted struct{ read, edges, trim func(*waiter) }
	hooks   atomic.Pointer[[]*hook]

	run         context.Context // ends with the volume
	cancel      context.CancelFunc
	wg          sync.WaitGroup
	wake        chan struct{} // ends the watch's rest
	ended       chan struct{} // closed when mu.closed is set first
	recovered   atomic.Bool   // the map comes from slot headers: members that return are compared with it first
	resting     atomic.Bool
	stage       atomic.Pointer[string] // what the open is at
	stood       atomic.Int64           // how long this process did not run, altogether, nanoseconds
	worse       chan struct{}          // a report is due at once
	urgent      chan struct{}          // a report is due that writes wait for
	rebuildBell chan struct{}          // the rebuild driver has something to look at
	guardBell   chan struct{}          // a rebuild has begun
	pace        pace.Pace              // of all members that are being filled
	eraseBell   chan struct{}          // the eraser has something to do
	erasings    []*erasing             // the eraser's
	viewings    []*viewing             // likewise
	records     []*Buf                 // for the headers that the eraser writes, for ever

	scrubPatience time.Duration // scrubPatience, but in tests

	mu struct {
		sync.Mutex

		ready    bool          // the page map is complete: batches may be formed
		settling bool          // what the recovery found is being settled: only that is moved
		tooFew   bool          // the recovery went on without enough members, which was accepted
		untold   bool          // of unknown: meta has not heard of it yet, so nobody can have accepted it
		unknown  uint64        // at most so many pages are gone, and nobody knows which: what meta knew, or what the recovery found if that is more
		barred   time.Time     // since when reports found pages out of reach, or that no page is taken; zero: they did not
		closed   error         // why no more is accepted; nil: open
		closing  bool          // Close was called
		parting  bool          // Close ends the sessions: what they do not bring to an end is not answered
		over     error         // why nothing is tried again: the sessions are ended for good; nil: they are not
		ops      int           // accepted and not answered
		idle     chan struct{} // closed when ops falls to 0 after closed was set

		// Page-outs.
		log       *raid.Log // nil: an in-place layout
		pending   *pending
		queue     bufQueue     // that no batch has yet
		trims     opList       // whole-page trims that no batch has yet
		active    []*Op        // trims that are not answered
		blocked   opList       // those of them that wait for pending page-outs of their pages
		held      opList       // writes that wait for a trim of their pages
		heldEdges bufQueue     // likewise, parts of an OpZero
		mergers   *unit        // sub-page writes that wait for a buffer
		flying    int          // batches of the front ends in flight; <= maxBatches
		batches   *batch       // free ones
		version   uint64       // of the layout in use
		starved   int64        // since when nothing that is queued finds a place, by Volume.clock; 0: it does
		unplaced  int64        // when something was refused one last, nanoseconds
		groupQ    []groupQueue // in-place layouts: the queue by group; queue.n is their sum
		groupHand int          // group that is served next
		seq       raid.Seq     // in-place layouts: last one used

		// Page-ins.
		epoch             uint8      // read epoch, modulo 2
		reading           [2]int     // transfers in flight by the epoch they were looked up in
		stalled           *unit      // too few members are up for these
		rescues           rescueList // that wait for scratch buffers
		contradictionTold int64      // when the log may tell of the next one, nanoseconds
		runs              *run       // free ones
		freeRescue        *rescue    // free ones
		units             *unit      // free ones

		// Cleaner.
		cleanAfter int64   // when victims may be read again, nanoseconds
		cleaners   int     // cleanings under way; <= cleanBatches
		cleaning   bool    // between the low and the high mark
		healing    bool    // a member may miss rows although it is up
		tidy       tidying // packing while nobody writes
		hedging    hedgeBudget
		cleanRead  *cleaning // whose pages have been read
		cleanIdle  *cleaning // free ones

		count             counters
		badSlots          map[raid.ServerID]int64 // slots found wrong, by reads and scrubs; nil: none
		scrub             *scrub                  // that runs, or ran last; nil: none did
		scrubbed          *ScrubStatus            // of the last one that went through all rows; nil: not known
		readLat, writeLat latency
		health            raid.Health // as of the last time it was not stale
		healthStale       bool
		metaAnswers       bool // the last renewal of the lease succeeded
		lapse             lapse
		heal              healState
	}
}

// member is where a column of a group lives.
type member struct {
	peer  *peer // nil: lost
	chunk raid.ChunkID
	ref   *memberRef
	gone  raid.ChunkID // its server turned out not to have this one any more; 0: none
	told  bool         // of gone: meta says that it is being rebuilt, or has noted that it misses rows
}

// hook is a front end's OnIdle function.
type hook struct{ f func() }

// after collects what has to happen when Volume.mu is released.
type after struct {
	free    []*Buf
	done    []*Op
	scratch [1]*Buf // room for a single buffer on its way to its user
}

// lock takes Volume.mu; what is put into the after is done by unlock.
func (v *Volume) lock() *after {
	a := v.afters.Get().(*after)
	v.mu.Lock()
	return a
}

func (v *Volume) unlock(a *after) {
	for range a.done {
		v.opGoneLocked()
	}
	v.mu.Unlock()
	freeBufs(a.free)
	a.free = a.free[:0]
	for i, op := range a.done {
		a.done[i] = nil
		op.Done(op)
	}
	a.done = a.done[:0]
	v.afters.Put(a)
}

// opGoneLocked counts an accepted op that is answered.
func (v *Volume) opGoneLocked() {
	v.mu.ops--
	if v.mu.ops == 0 && v.mu.idle != nil {
		close(v.mu.idle)
		v.mu.idle = nil
	}
}

// allPeers is the list of servers of the volume. It must not be changed.
func (v *Volume) allPeers() []*peer { return *v.peers.Load() }

func (v *Volume) member(g raid.GroupID, c raid.Col) *member {
	return &v.memberOf[int(g)*v.geo.Members()+int(c)]
}

// Size implements Device.
func (v *Volume) Size() int64 { return v.size }

// Alloc implements Device.
func (v *Volume) Alloc(ctx context.Context, n int, dst []*Buf) ([]*Buf, error) {
	return v.user.get(ctx, n, dst)
}

// TryAlloc implements Device.
func (v *Volume) TryAlloc(n int, dst []*Buf) ([]*Buf, bool) { return v.user.tryGet(n, dst) }

// Free implements Device.
func (v *Volume) Free(bufs []*Buf) { freeBufs(bufs) }

// OnIdle implements Device.
func (v *Volume) OnIdle(f func()) (remove func()) {
	h := &hook{f}
	v.changeHooks(func(old []*hook) []*hook { return append(old, h) })
	return func() {
		v.changeHooks(func(old []*hook) []*hook {
			var kept []*hook
			for _, o := range old {
				if o != h {
					kept = append(kept, o)
				}
			}
			return kept
		})
	}
}

func (v *Volume) changeHooks(change func([]*hook) []*hook) {
	for {
		old := v.hooks.Load()
		// A copy: idle reads the slice without a lock.
		now := change(append([]*hook(nil), *old...))
		if v.hooks.CompareAndSwap(old, &now) {
			return
		}
	}
}

// idle is called by the transport after a batch of completions: what they made
// possible is started, what they answered is sent.
func (v *Volume) idle() {
	v.pump()
	v.flushHooks()
}

func (v *Volume) flushHooks() {
	for _, h := range *v.hooks.Load() {
		h.f()
	}
}

// Kick implements Device.
func (v *Volume) Kick() { v.pump() }

// done takes a transfer that has completed, on a goroutine of the transport.
func (v *Volume) done(r *transport.Request) {
	x := r.User.(*xfer)
	if x.conn != nil {
		x.peer.completed(x)
	}
	v.finish(x)
}

// finish passes a completed transfer on to what it is part of.
func (v *Volume) finish(x *xfer) {
	if x.req.Err != nil {
		v.transferFailed(x)
	}
	switch {
	case x.batch != nil:
		v.batchPart(x)
	case x.run != nil:
		v.runDone(x)
	case x.wait != nil:
		x.wait <- x.req.Err
	default:
		v.rescuePart(x)
	}
}

// pump starts whatever can be started: batches of what is queued, cleaning,
// and the completion of transfers that never got out.
func (v *Volume) pump() {
	for {
		for x := v.dead.take(); x != nil; {
			next := x.next
			x.next = nil
			v.finish(x)
			x = next
		}
		b := v.nextBatch()
		if b == nil {
			if v.dead.some.Load() {
				continue
			}
			break
		}
		v.sendBatch(b)
	}
	for _, p := range v.allPeers() {
		p.kick()
	}
	if v.resting.Load() {
		select {
		case v.wake <- struct{}{}:
		default:
		}
	}
}
