package client

import (
	"context"
	"errors"
	"fmt"

	"dmps/raid"
)

// Open attaches a volume: it makes a session with every memory server, recovers the
// page map from the slot headers unless the volume is new, and starts the background
// work. The lease must be held. It is Prepare and Prepared.Open in one.
//
// It fails when too few members of some group can be reached to recover, and
// when buffers cannot be locked (Config.AllowSwappable).
func Open(ctx context.Context, cfg Config) (*Volume, error) {
	p, err := Prepare(cfg)
	if err != nil {
		return nil, err
	}
	return p.Open(ctx, cfg.Layout, cfg.Lease)
}

// open makes the sessions, recovers the page map, and starts the background work. What
// it leaves when it fails, abandon undoes.
func (v *Volume) open(ctx context.Context) error {
	run, l := v.run, v.layout
	watched := v.cfg.Meta != nil && v.cfg.Lease.TTL > 0 && v.mu.log != nil
	if watched {
		v.mu.lapse.renewed = nanotime() // it was taken just now
	}
	v.makePeers()
	v.doing("waiting for memory servers")
	opening, opened := context.WithCancel(run)
	defer opened()
	v.wg.Go(func() { v.keepTelling(opening) })
	if err := v.connectAll(ctx, run); err != nil {
		return err
	}
	// From here on, so that a member that falls silent does not hang a recovery.
	v.wg.Go(func() { v.watch(run) })
	if v.mu.log != nil && !l.FirstEpoch {
		v.doing("reading what the members hold")
		if err := v.recover(ctx); err != nil {
			return err
		}
	}
	a := v.lock()
	if v.mu.log != nil {
		v.mu.log.StartSeq(raid.FirstSeq(l.Epoch))
		for i := range l.Groups {
			v.enterMoversLocked(&l.Groups[i])
		}
	}
	v.unlock(a)
	v.doing("settling what was not answered")
	if err := v.begin(ctx, run, watched); err != nil {
		return err
	}
	a = v.lock()
	v.mu.ready = true
	v.advanceLocked() // what the recovery found dead is free, or to be erased
	v.eraseSoonLocked()
	if !l.FirstEpoch {
		v.reportSoonLocked()
		v.askNowLocked() // meta hears how the volume was found
	}
	v.unlock(a)
	v.pump()
	if v.mu.log != nil {
		v.wg.Go(func() { v.eraseAll(run) })
		v.wg.Go(func() { v.rebuildAll(run) })
		v.wg.Go(func() { v.guardAll(run) })
		if v.cfg.ScrubEvery > 0 {
			v.wg.Go(func() { v.keepScrubbing(run) })
		}
	}
	return nil
}

// register tells the transport of all memory that requests use, before there is a
// session.
func (v *Volume) register() error {
	if err := v.cfg.Dialer.Register(v.arena.mem); err != nil {
		return fmt.Errorf("registering the page buffers: %w", err)
	}
	if err := v.cfg.Dialer.Register(v.consts.mem); err != nil {
		return fmt.Errorf("registering the constant pages: %w", err)
	}
	if v.mu.log != nil {
		return v.mapRecovery()
	}
	return nil
}

// begin starts to keep the lease, and settles what the recovery found. Of a new
// volume meta hears when it can be used, and not before: until then the next client
// is the first again.
func (v *Volume) begin(ctx, run context.Context, watched bool) error {
	settle := func() error {
		if v.mu.log == nil {
			return nil
		}
		return v.settleRecovery(ctx)
	}
	if v.layout.FirstEpoch {
		if err := settle(); err != nil {
			return err
		}
		if err := v.tellOpened(ctx); err != nil {
			return err
		}
	}
	v.wg.Go(func() { v.keepLease(run) })
	if watched {
		v.wg.Go(func() { v.watchLease(run) })
	}
	if v.layout.FirstEpoch {
		return nil
	}
	if err := settle(); err != nil {
		return err
	}
	v.mu.Lock()
	unknown, untold := v.mu.unknown, v.mu.untold
	v.mu.Unlock()
	if untold { // meta keeps that, whatever becomes of this client
		v.log.Error("pages are gone, and it is not known which: they read as older versions or as zeros, and the volume is failed until that is accepted (dmps volume accept-loss)", "pages_at_most", unknown)
		return v.tellOpened(ctx)
	}
	return nil
}

func (v *Volume) makeArena() error {
	c := &v.cfg
	a, err := newArena(c.userBufs()+c.scratchBufs()+c.mergeBufs()+c.moveBufs()+c.probeBufs()+c.batchBufs()+c.recordBufs(), c.AllowSwappable)
	if err != nil {
		return err
	}
	if !a.locked {
		v.log.Warn("page buffers are not locked: never swap to this volume from this machine")
	}
	v.arena = a
	v.user = a.pool(c.userBufs())
	v.scratch, v.merges, v.moves = a.pool(c.scratchBufs()), a.pool(c.mergeBufs()), a.pool(c.moveBufs())
	v.probes = a.pool(c.probeBufs())
	own := a.pool(c.batchBufs())
	records, ok := a.pool(c.recordBufs()).tryGet(c.recordBufs(), nil)
	if !ok {
		panic("client: arena too small for the eraser's headers")
	}
	v.records = records
	if v.consts, err = theConstants(c.AllowSwappable); err != nil {
		return errors.Join(err, a.close())
	}
	v.mu.pending = newPending(c.userBufs())
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
	records := v.records
	for range eraseSide {
		n := erasingBufs(v.geo)
		v.erasings = append(v.erasings, v.newErasing(records[:n]))
		records = records[n:]
	}
	for _, b := range records {
		v.viewings = append(v.viewings, v.newViewing(b))
	}
}

func (v *Volume) makePeers() {
	w := v.geo.Members()
	v.memberOf = make([]member, len(v.layout.Groups)*w)
	v.movers = make([]member, len(v.layout.Groups)*w)
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

// connectAll starts the peers and waits until each has a session or a reason
// why not. That this process did not run is no reason.
func (v *Volume) connectAll(ctx, run context.Context) error {
	first := make(chan error, len(v.allPeers()))
	o := &opening{first: first, still: newStillness(v.cfg.nanotime)}
	watched, cancel := context.WithCancel(run)
	defer cancel()
	v.wg.Go(func() { o.still.keep(watched) })
	for _, p := range v.allPeers() {
		v.startPeer(p, o)
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
	if len(errs) == 0 && !v.layout.FirstEpoch {
		return nil
	}
	for _, err := range errs {
		v.log.Warn("a member is missing", "err", err)
	}
	if v.cfg.AcceptLoss && !v.layout.FirstEpoch {
		return nil // what is left is served, however little
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
			if m := v.member(g.ID, raid.Col(c)); m.peer != nil && m.peer.state == peerUp && m.ref.opened {
				up++
			}
		}
		if up < v.geo.K {
			return fmt.Errorf("group %d has %d of %d members, %d are needed: bring back the memory servers that are away, or wait for the network; one that is restarted is empty. Or have what is left served with attach --accept-data-loss", g.ID, up, v.geo.Members(), v.geo.K)
		}
	}
	return nil
}
