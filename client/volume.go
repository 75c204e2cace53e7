package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"dmps/raid"
	"dmps/transport"

	"golang.org/x/sys/unix"
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
	scratch     *pool
	consts      *constants
	batches     []*batch // all there are
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
	recovered   atomic.Bool   // the map comes from slot headers: members that return are compared with it first
	resting     atomic.Bool
	worse       chan struct{} // a report is due at once
	urgent      chan struct{} // a report is due that writes wait for
	rebuildBell chan struct{} // the rebuild driver has something to look at
	guardBell   chan struct{} // a rebuild has begun
	pace        pace          // of all members that are being filled
	eraseBell   chan struct{} // the eraser has something to do

	scrubPatience time.Duration // scrubPatience, but in tests

	mu struct {
		sync.Mutex

		ready   bool          // the page map is complete: batches may be formed
		closed  error         // why no more is accepted; nil: open
		closing bool          // Close was called
		over    error         // why nothing is tried again: the sessions are ended for good; nil: they are not
		ops     int           // accepted and not answered
		idle    chan struct{} // closed when ops falls to 0 after closed was set

		// Page-outs.
		log       *raid.Log // nil: an in-place layout
		pending   *pending
		queue     bufQueue     // that no batch has yet
		trims     opList       // whole-page trims that no batch has yet
		active    []*Op        // trims that are not answered
		blocked   opList       // those of them that wait for pending page-outs of their pages
		held      opList       // writes that wait for a trim of their pages
		heldEdges bufQueue     // likewise, parts of an OpZero
		mergers   *unit        // sub-page writes that wait for a scratch buffer
		flying    int          // batches of the front ends in flight; <= maxBatches
		batches   *batch       // free ones
		version   uint64       // of the layout in use
		starved   int64        // since when no row can be had for what is queued; 0: it can
		groupQ    []groupQueue // in-place layouts: the queue by group; queue.n is their sum
		groupHand int          // group that is served next
		seq       raid.Seq     // in-place layouts: last one used

		// Page-ins.
		epoch      uint8   // read epoch, modulo 2
		reading    [2]int  // transfers in flight by the epoch they were looked up in
		stalled    *unit   // too few members are up for these
		rescues    *rescue // that wait for scratch buffers
		runs       *run    // free ones
		freeRescue *rescue // free ones
		units      *unit   // free ones

		// Cleaner.
		cleaners  int       // cleanings under way; <= cleanBatches
		cleaning  bool      // between the low and the high mark
		healing   bool      // a member may miss rows although it is up
		distrust  bool      // rows that the recovery took in on trust may be there to be moved
		trusting  bool      // a cleaning of such rows is under way
		cleanRead *cleaning // whose pages have been read
		cleanIdle *cleaning // free ones

		count             counters
		badSlots          map[raid.ServerID]int64 // slots found wrong, by reads and scrubs; nil: none
		scrub             *scrub                  // that runs, or ran last; nil: none did
		scrubbed          *ScrubStatus            // of the last one that went through all rows; nil: not known
		readLat, writeLat latency
		health            raid.Health // as of the last time it was not stale
		healthStale       bool
		heal              healState
	}
}

// member is where a column of a group lives.
type member struct {
	peer  *peer // nil: lost
	chunk raid.ChunkID
	ref   *memberRef
	gone  raid.ChunkID // its server turned out not to have this one any more; 0: none
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

// Open attaches a volume: it maps and locks the arena, makes a session with
// every memory server, recovers the page map from the slot headers unless the
// volume is new, and starts the background work. The lease must be held.
//
// It fails when too few members of some group can be reached to recover, and
// when buffers cannot be locked (Config.AllowSwappable).
func Open(ctx context.Context, cfg Config) (*Volume, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	l := cfg.Layout
	v := &Volume{
		cfg: cfg, layout: l, geo: l.Geometry, size: int64(l.Pages) * raid.PageSize,
		log:         cfg.Logger.With("volume", l.Name, "epoch", uint64(l.Epoch)),
		wake:        make(chan struct{}, 1),
		worse:       make(chan struct{}, 1),
		urgent:      make(chan struct{}, 1),
		rebuildBell: make(chan struct{}, 1),
		guardBell:   make(chan struct{}, 1),
		eraseBell:   make(chan struct{}, 1),
	}
	v.mu.heal.off, v.mu.heal.rate = cfg.NoRebuildGuard, max(cfg.RebuildRate, 0)
	v.mu.heal.applyTo(&v.pace)
	v.mu.scrubbed, v.scrubPatience = cfg.LastScrub, scrubPatience
	v.afters.New = func() any { return &after{free: make([]*Buf, 0, 1024), done: make([]*Op, 0, 256)} }
	v.xfers.done = v.done
	v.hooks.Store(&[]*hook{})
	v.granted.read, v.granted.edges, v.granted.trim = v.readGranted, v.edgesGranted, v.trimGranted
	var err error
	if v.coder, err = raid.NewCoder(v.geo); err != nil {
		return nil, fmt.Errorf("opening volume %s: %w", l.Name, err)
	}
	if l.Kind == raid.LayoutLog {
		v.mu.log, err = raid.NewLog(raid.ConfigOf(l))
		if err == nil && cfg.Meta != nil {
			v.mu.log.GuardThin()
		}
	} else {
		v.inplace, err = raid.NewInPlace(l)
		v.mu.groupQ = make([]groupQueue, len(l.Groups))
		v.mu.seq = raid.FirstSeq(l.Epoch)
	}
	if err != nil {
		return nil, fmt.Errorf("opening volume %s: %w", l.Name, err)
	}
	if err := v.makeArena(); err != nil {
		return nil, fmt.Errorf("opening volume %s: %w", l.Name, err)
	}
	run, cancel := context.WithCancel(context.Background())
	v.run, v.cancel = run, cancel
	if err := cfg.Dialer.Register(v.arena.mem); err != nil {
		v.abandon(err)
		return nil, fmt.Errorf("opening volume %s: registering the page buffers: %w", l.Name, err)
	}
	if v.mu.log != nil && !l.FirstEpoch {
		if err := v.mapRecovery(); err != nil {
			v.abandon(err)
			return nil, fmt.Errorf("opening volume %s: %w", l.Name, err)
		}
	}
	v.makeReady()
	v.makePeers()
	if err := v.connectAll(ctx, run); err != nil {
		v.abandon(err)
		return nil, fmt.Errorf("opening volume %s: %w", l.Name, err)
	}
	// From here on, so that a member that falls silent does not hang a recovery.
	v.wg.Go(func() { v.watch(run) })
	if v.mu.log != nil && !l.FirstEpoch {
		if err := v.recover(ctx); err != nil {
			v.abandon(err)
			return nil, fmt.Errorf("opening volume %s: %w", l.Name, err)
		}
	}
	a := v.lock()
	if v.mu.log != nil {
		v.mu.log.StartSeq(raid.FirstSeq(l.Epoch))
		for i := range l.Groups {
			v.enterMoversLocked(&l.Groups[i])
		}
	}
	v.mu.ready = true
	v.advanceLocked()   // what the recovery found dead is free, or to be erased,
	v.eraseSoonLocked() // like what it dropped
	if v.mu.distrust && v.mustAskLocked() {
		select {
		case v.urgent <- struct{}{}: // the rows on trust wait for that
		default:
		}
	}
	v.unlock(a)
	v.pump() // what the recovery took in on trust is moved before anything can go wrong
	v.wg.Go(func() { v.keepLease(run) })
	if v.mu.log != nil {
		side := make([]*erasing, eraseSide)
		for i := range side {
			side[i] = v.newErasing()
		}
		v.wg.Go(func() { v.eraseAll(run, side) })
		v.wg.Go(func() { v.rebuildAll(run) })
		v.wg.Go(func() { v.guardAll(run) })
	}
	if v.mu.log != nil && cfg.ScrubEvery > 0 {
		v.wg.Go(func() { v.keepScrubbing(run) })
	}
	return v, nil
}

// abandon undoes a half-open volume.
func (v *Volume) abandon(cause error) {
	v.cancel()
	for _, p := range v.allPeers() {
		p.mu.Lock()
		c := p.mu.conn
		p.mu.Unlock()
		if c != nil {
			p.drop(c, cause)
		}
	}
	v.wg.Wait()
	v.drainDead()
	if err := v.unmap(); err != nil {
		v.log.Error("closing a volume that could not be opened", "err", err)
	}
}

func (v *Volume) makeArena() error {
	consts := 256
	user, scratch, batches := v.cfg.userBufs(), v.cfg.scratchBufs(), v.cfg.batchBufs()
	a, err := newArena(user+scratch+batches+consts, v.cfg.AllowSwappable)
	if err != nil {
		return err
	}
	if !a.locked {
		v.log.Warn("page buffers are not locked: never swap to this volume from this machine")
	}
	v.arena = a
	v.user = a.pool(user)
	v.scratch = a.pool(scratch)
	own := a.pool(batches)
	c := a.pool(consts)
	v.consts = newConstants(c.free)
	v.mu.pending = newPending(user)
	for range maxBatches + cleanBatches {
		v.mu.batches = newBatch(v.geo, own, v.mu.batches)
		v.batches = append(v.batches, v.mu.batches)
	}
	return nil
}

// makeReady allocates what the page path would allocate when it first needs it,
// which on a machine that swaps is the worst time of all.
func (v *Volume) makeReady() {
	units := make([]unit, v.cfg.units())
	for i := range units {
		units[i].next = v.mu.units
		v.mu.units = &units[i]
	}
	for range readyXfers {
		v.mu.runs = &run{next: v.mu.runs}
	}
	for range readyXfers + (maxBatches+cleanBatches)*v.geo.Members() {
		v.xfers.put(v.xfers.make())
	}
	for range maxBatches {
		v.mu.freeRescue = newRescue(v.mu.freeRescue)
	}
	if v.mu.log == nil {
		return
	}
	for range cleanBatches {
		v.mu.cleanIdle = v.newCleaning(v.mu.cleanIdle)
	}
}

func (v *Volume) makePeers() {
	w := v.geo.Members()
	v.memberOf = make([]member, len(v.layout.Groups)*w)
	v.movers = make([]member, len(v.layout.Groups)*w)
	v.peers.Store(&[]*peer{})
	for _, g := range v.layout.Groups {
		for c, m := range g.Members {
			if m.State == raid.MemberLost {
				if v.mu.log != nil {
					v.mu.log.SetLost(g.ID, raid.Col(c))
					v.notedLocked(g.ID, raid.Col(c))
				}
				continue
			}
			v.joinLocked(g.ID, raid.Col(c), m)
		}
	}
}

// allPeers is the list of servers of the volume. It must not be changed.
func (v *Volume) allPeers() []*peer { return *v.peers.Load() }

func (v *Volume) member(g raid.GroupID, c raid.Col) *member {
	return &v.memberOf[int(g)*v.geo.Members()+int(c)]
}

// connectAll starts the peers and waits until each has a session or a reason
// why not.
func (v *Volume) connectAll(ctx, run context.Context) error {
	first := make(chan error, len(v.allPeers()))
	for _, p := range v.allPeers() {
		v.startPeer(p, first)
	}
	var errs []error
	for range v.allPeers() {
		select {
		case err := <-first:
			if err != nil {
				errs = append(errs, err)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	a := v.lock()
	defer v.unlock(a)
	if v.mu.closed != nil {
		return v.mu.closed
	}
	if len(errs) == 0 {
		return nil
	}
	for _, err := range errs {
		v.log.Warn("a member is missing", "err", err)
	}
	if err := v.enoughLocked(); err != nil {
		return errors.Join(append(errs, err)...)
	}
	return nil
}

// enoughLocked says whether every group can be read.
func (v *Volume) enoughLocked() error {
	for _, g := range v.layout.Groups {
		up := 0
		for c := range g.Members {
			if p := v.member(g.ID, raid.Col(c)).peer; p != nil && p.state == peerUp {
				up++
			}
		}
		if up < v.geo.K && !v.layout.FirstEpoch {
			return fmt.Errorf("group %d has %d of %d members, %d are needed: start the missing memory servers, or wait for the network", g.ID, up, v.geo.Members(), v.geo.K)
		}
	}
	return nil
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

// Close waits until everything accepted is answered, gives the lease back and
// ends all sessions. Requests submitted from now on end with ErrClosed. When
// ctx ends first, what is still open ends with ErrClosed too, and Close says so.
func (v *Volume) Close(ctx context.Context) error { return v.close(ctx, true) }

// Leave is Close that keeps the lease, for a client that will be back while
// somebody waits for its volume: nobody else gets it before the lease has run
// out, or takes it over.
func (v *Volume) Leave(ctx context.Context) error { return v.close(ctx, false) }

func (v *Volume) close(ctx context.Context, release bool) error {
	idle := make(chan struct{})
	a := v.lock()
	already := v.mu.closing
	if !already {
		v.mu.closing = true
		if v.mu.closed == nil { // a fenced volume stays one
			v.mu.closed = ErrClosed
		}
		if v.mu.ops == 0 {
			close(idle)
		} else {
			v.mu.idle = idle
		}
	}
	v.unlock(a)
	if already {
		return ErrClosed
	}
	v.pump()
	var err error
	select {
	case <-idle:
	case <-ctx.Done():
		err = fmt.Errorf("closing volume %s with requests open: %w", v.layout.Name, ctx.Err())
	}
	if v.mu.log != nil {
		v.eraseLast(ctx)
	}
	v.user.close()
	v.cancel()
	v.wg.Wait()
	v.drainDead()
	v.failAll(ErrClosed)
	if release && v.cfg.Meta != nil && !v.fenced() {
		dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if derr := v.cfg.Meta.Detach(dctx, v.layout.Volume, v.layout.Epoch); derr != nil {
			err = errors.Join(err, fmt.Errorf("giving back the lease of volume %s: %w", v.layout.Name, derr))
		}
	}
	return errors.Join(err, v.unmap())
}

func (v *Volume) fenced() bool {
	a := v.lock()
	defer v.unlock(a)
	return errors.Is(v.mu.closed, ErrFenced)
}

// unmap closes the transport, which knows the buffers, and lets them go. What
// a front end still holds would fault, so then they stay.
func (v *Volume) unmap() error {
	err := v.cfg.Dialer.Close()
	// A page-in that was hedged is answered with a scratch buffer.
	held := v.user.size - v.user.available() + v.scratch.size - v.scratch.available()
	if held != 0 {
		return errors.Join(err, fmt.Errorf("closing volume %s: a front end still holds %d page buffers", v.layout.Name, held))
	}
	if v.recoverMem != nil {
		err = errors.Join(err, unix.Munmap(v.recoverMem))
	}
	return errors.Join(err, v.arena.close())
}

// drainDead completes transfers that never got out, after the last pump.
func (v *Volume) drainDead() {
	for x := v.dead.take(); x != nil; x = v.dead.take() {
		for x != nil {
			next := x.next
			x.next = nil
			v.finish(x)
			x = next
		}
	}
}
