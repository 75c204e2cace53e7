package meta

import (
	"context"
	"time"

	"dmps/meta/state"
)

const (
	healBatch = 1024 // members that one command replaces: some milliseconds in the state
	healShare = 10   // planning takes at most this fraction of the time: it holds the state
)

// healer has members replaced, during one reign.
type healer struct {
	seen uint64    // index of the last command when nothing was to be done
	next time.Time // no plan before
}

// heal has replaced what is to be replaced, when anything changed since it
// looked last.
func (h *healer) heal(ctx context.Context, n *Node, r *reign) {
	for time.Now().After(h.next) {
		applied := n.disks.state.Applied()
		if applied == h.seen || r.settling(n) {
			return
		}
		c := &state.Heal{Limit: healBatch, Rebuilding: n.cfg.MaxRebuilding, Moves: n.cfg.MaxMoves}
		would := false
		start := time.Now()
		if err := n.disks.state.View(func(s *state.State) { would = s.MayHeal() && s.WouldHeal(c) }); err != nil {
			n.unusable(err)
			return
		}
		h.next = start.Add(healShare * time.Since(start))
		if !would {
			h.seen = applied
			return
		}
		v, err := n.propose(ctx, &state.Command{Heal: c})
		if err != nil {
			return // no quorum: the next round, or the next leader, will see it
		}
		if healed := v.(state.Healed); healed.Steps > 0 {
			n.log.Info("members of volumes are replaced", "members", healed.Steps)
		}
	}
}

// returnsLocked notes that a server that was down is heard again. When the
// network was away, the others follow within moments, and those that merely
// come last must not be replaced. It holds healing up once a grace, so that a
// server that comes and goes does not hold it up for good.
func (r *reign) returnsLocked(cfg Config) {
	if now := time.Now(); now.Sub(r.mu.settle) > cfg.Grace {
		r.mu.settle = now.Add(2 * cfg.SuspectAfter)
	}
}

// settling reports whether nothing may be replaced now: servers are coming back, or one that
// the state calls down was heard. A heartbeat may come between the verdict and its command,
// and to a leader that is new nobody could say anything yet.
func (r *reign) settling(n *Node) bool {
	heard := false
	// What cannot be read is noticed by the plan.
	_ = n.disks.state.View(func(s *state.State) {
		r.mu.Lock()
		defer r.mu.Unlock()
		now := time.Now()
		heard = now.Before(r.mu.settle)
		for id, sv := range s.Servers {
			b, ok := r.mu.beats[id]
			heard = heard || sv.State == state.ServerDown && ok && b.incarnation == sv.Incarnation && b.away(now) <= n.cfg.SuspectAfter
		}
	})
	return heard
}
