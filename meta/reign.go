package meta

import (
	"cmp"
	"context"
	"sync"
	"time"

	"dmps/meta/metapb"
	"dmps/meta/state"
	"dmps/raid"
)

const (
	ruleEvery   = 250 * time.Millisecond // servers are judged
	stalledSelf = time.Second            // between two rounds: this node, or its disk, stalled
)

// reign is what a leader knows that is not replicated. It begins anew with
// each leader: every server counts as heard then, and every lease as renewed.
type reign struct {
	ready chan struct{} // closed when the state is up to date and the reign is announced
	end   context.CancelFunc
	mass  time.Duration // Config.MassGrace

	mu struct {
		sync.Mutex
		beats   map[raid.ServerID]beat
		leases  map[raid.VolumeID]leaseEnd
		reports map[raid.VolumeID]report
		unknown map[raid.ServerID][]raid.ChunkID                      // that a server holds and this state did not give out, as of its last heartbeat
		settle  time.Time                                             // servers that were down are coming back: nothing is replaced before
		about   map[raid.ServerID]map[raid.ChunkID]*metapb.ChunkAbout // of those, as far as the server said
		full    map[raid.ServerID]full                                // servers that refused memory lately
		unfound map[raid.ServerID]unfound                             // servers that were dialled and did not answer
		care    care
	}
}

// beat is the last heartbeat of a server.
type beat struct {
	incarnation raid.Incarnation
	at          time.Time
	used        uint64     // bytes
	silent      bool       // it registered in this reign, and no heartbeat came since
	deaf        time.Time  // since when it says that it accepts nobody; zero: it does
	list        *chunkList // the last one it sent; nil: none in this reign
	calm        *calm      // nil: the next one is compared with the state
	together    bool       // it fell silent with too many others (state.State.Together), and was not heard of since
	followed    bool       // one that began anew waits for its id
}

// held reports whether it gets more time than one that is silent alone. Not so when its
// host was started again, as after a power failure: it does not come back with what it held.
func (b beat) held() bool { return b.together && !b.followed }

// grace is after how long of silence the server is down.
func (b beat) grace(cfg *Config) time.Duration {
	if b.held() {
		return cfg.MassGrace
	}
	return cfg.Grace
}

// away is for how long nobody could rely on the server: it said nothing, or that
// it accepts no sessions.
func (b beat) away(now time.Time) time.Duration {
	if !b.deaf.IsZero() && b.deaf.Before(b.at) {
		return now.Sub(b.deaf)
	}
	return now.Sub(b.at)
}

// leaseEnd is when a lease runs out.
type leaseEnd struct {
	epoch raid.Epoch
	at    time.Time
}

// report is the last one of a lease holder.
type report struct {
	epoch raid.Epoch
	*metapb.Report
	refused map[raid.ChunkID]time.Time // members that it says were refused, since when
}

// followNotify turns Raft's notices into reigns. It never blocks: Raft waits
// for its notices to be taken.
func (n *Node) followNotify(ctx context.Context, p *peer) {
	defer n.setReign(nil)
	for {
		select {
		case <-ctx.Done():
			return
		case leads := <-p.notify:
			if !leads {
				n.setReign(nil)
				continue
			}
			reignCtx, end := context.WithCancel(ctx)
			r := &reign{ready: make(chan struct{}), end: end, mass: n.cfg.MassGrace}
			r.mu.beats = map[raid.ServerID]beat{}
			r.mu.leases = map[raid.VolumeID]leaseEnd{}
			r.mu.reports = map[raid.VolumeID]report{}
			r.mu.unknown = map[raid.ServerID][]raid.ChunkID{}
			r.mu.about = map[raid.ServerID]map[raid.ChunkID]*metapb.ChunkAbout{}
			r.mu.full = map[raid.ServerID]full{}
			r.mu.care = newCare()
			n.setReign(r)
			n.wg.Go(func() { n.rule(reignCtx, p, r) })
		}
	}
}

// setReign ends the present reign and begins another; nil: none.
func (n *Node) setReign(r *reign) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.reign != nil {
		n.mu.reign.end()
	}
	n.mu.reign = r
}

// rule is the leader's work, until the reign ends.
func (n *Node) rule(ctx context.Context, p *peer, r *reign) {
	for err := n.announce(ctx, p, r); err != nil; err = n.announce(ctx, p, r) {
		n.log.Warn("beginning to lead", "err", err)
		if !sleep(ctx, ruleEvery) {
			return
		}
	}
	n.log.Info("leading the metadata service", "node", n.identity().ID)
	n.wg.Go(func() { n.promote(ctx, p) })
	t := time.NewTicker(ruleEvery)
	defer t.Stop()
	var h healer
	for last := time.Now(); ; last = time.Now() {
		// A node that hears nobody judges nobody: the silence is excused afterwards.
		for wait := true; wait; wait = n.deaf(p) {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
		}
		r.excuse(time.Since(last))
		n.judge(ctx, r)
		h.heal(ctx, n, r)
	}
}

// announce brings the state up to date, says where this leader's API is, and
// opens the reign.
func (n *Node) announce(ctx context.Context, p *peer, r *reign) error {
	if err := n.await(ctx, p.raft.Barrier(commitTimeout)); err != nil {
		return err
	}
	id := n.identity()
	self := n.self()
	var cluster string
	var known *state.Node
	if err := n.disks.state.View(func(s *state.State) { cluster, known = s.Cluster, s.Nodes[id.ID] }); err != nil {
		return err
	}
	if cluster == "" {
		if _, err := n.propose(ctx, &state.Command{Init: &state.Init{Cluster: id.Cluster, Level: cmp.Or(id.Begin, n.cfg.build.Highest), By: n.cfg.build.Version}}); err != nil {
			return err
		}
	}
	if known == nil || *known != self {
		if _, err := n.propose(ctx, &state.Command{PutNode: &self}); err != nil {
			return err
		}
	}
	now := time.Now()
	err := n.disks.state.View(func(s *state.State) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, sv := range s.Servers {
			r.mu.beats[sv.ID] = firstBeat(sv, now, &n.cfg)
		}
		for _, v := range s.Volumes {
			if v.Lease != nil {
				r.mu.leases[v.ID] = leaseEnd{epoch: v.Lease.Epoch, at: now.Add(n.cfg.LeaseTTL)}
			}
		}
	})
	if err == nil {
		close(r.ready)
	}
	return err
}

// firstBeat is what a new leader assumes of a server: that it was heard now, or in a moment,
// since servers that found nobody wait before they try again. Of one that was suspect before it
// counts for how long earlier leaders did not hear it, while they could, and gives it
// time to be heard.
func firstBeat(sv *state.Server, now time.Time, cfg *Config) beat {
	b := beat{incarnation: sv.Incarnation, at: now.Add(cfg.SuspectAfter / 2)}
	if sv.State == state.ServerSuspect {
		b.together = sv.Together
		silent := time.Duration(sv.Silent) * time.Millisecond
		b.at = now.Add(-max(min(silent, b.grace(cfg)-2*cfg.SuspectAfter), 0))
	}
	return b
}

// silentStep is how much longer the silence of a suspect server is before that is
// replicated, for the next leader: what it does not know the server gets once more.
func (b beat) silentStep(cfg *Config) time.Duration { return max(b.grace(cfg)/6, time.Second) }

// excuse takes the blame for silence when this node itself did not run for a
// while: it heard nobody then, and renewed no lease.
func (r *reign) excuse(gap time.Duration) {
	if gap < stalledSelf {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, b := range r.mu.beats {
		b.at = b.at.Add(gap)
		if !b.deaf.IsZero() {
			b.deaf = b.deaf.Add(gap)
		}
		r.mu.beats[id] = b
	}
	for id, l := range r.mu.leases {
		l.at = l.at.Add(gap)
		r.mu.leases[id] = l
	}
}

// judge turns silence into suspicion, and suspicion into down.
func (n *Node) judge(ctx context.Context, r *reign) {
	type verdict struct {
		state.SetServer
		why string
	}
	var verdicts []verdict
	now := time.Now() // before it waits for the state, as heartbeats may
	held := 0
	err := n.disks.state.View(func(s *state.State) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, sv := range s.Servers {
			if b, ok := r.mu.beats[sv.ID]; !ok || b.incarnation != sv.Incarnation {
				// It registered, and the call did not come to note it.
				r.mu.beats[sv.ID] = beat{incarnation: sv.Incarnation, at: now}
			}
		}
		for _, id := range s.Together(func(id raid.ServerID) bool { return r.mu.beats[id].away(now) > n.cfg.SuspectAfter }) {
			if b := r.mu.beats[id]; !b.together {
				b.together = true
				r.mu.beats[id] = b
				held++
			}
		}
		for _, sv := range s.SortedServers() {
			b := r.mu.beats[sv.ID]
			away := b.away(now)
			is := sv.State // only a heartbeat makes a server up again
			v := state.SetServer{ID: sv.ID, Incarnation: sv.Incarnation, Silent: away.Milliseconds(), Together: b.held()}
			switch {
			case away > b.grace(&n.cfg):
				is = state.ServerDown
			case away > n.cfg.SuspectAfter && sv.State == state.ServerUp:
				is = state.ServerSuspect
			}
			v.State = is
			why := "" // nobody need be told
			if is != sv.State {
				why = "memory server misses its heartbeats"
				if !b.deaf.IsZero() {
					why = "memory server says that it accepts no sessions"
				}
			} else {
				v.Still = true
				if is != state.ServerSuspect || v.Together == sv.Together && v.Silent-sv.Silent < b.silentStep(&n.cfg).Milliseconds() {
					continue
				}
			}
			verdicts = append(verdicts, verdict{v, why})
		}
	})
	if err != nil {
		n.unusable(err)
		return
	}
	if held > 0 {
		n.log.Error("too many memory servers fell silent together: they are given more time before their members are replaced; dmps rebuild VOLUME does not wait", "servers", held, "for", n.cfg.MassGrace)
	}
	// All at once: Raft writes them together. One after another those of a rack would take
	// as long as it takes to suspect servers.
	var wg sync.WaitGroup
	for i := range verdicts {
		v := &verdicts[i]
		wg.Go(func() {
			// What is refused is of a life that a newer one followed. Without a quorum the
			// next round, or the next leader, sees it.
			if _, err := n.propose(ctx, &state.Command{SetServer: &v.SetServer}); err == nil && v.why != "" {
				n.log.Warn(v.why, "server", v.ID, "state", v.State.String())
			}
		})
	}
	wg.Wait()
}

// leading gives the reign, ready, or errNoQuorum when this node does not lead.
func (n *Node) leading(ctx context.Context) (*reign, *peer, error) {
	n.mu.Lock()
	r, p := n.mu.reign, n.mu.peer
	n.mu.Unlock()
	if r == nil || p == nil || !p.leads() {
		return nil, nil, errNoQuorum
	}
	limit := time.NewTimer(enqueueTimeout)
	defer limit.Stop()
	select {
	case <-r.ready:
		return r, p, nil
	case <-limit.C:
	case <-ctx.Done():
	}
	return nil, nil, errNoQuorum
}

// sleep waits, and reports whether it was left alone.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
