package meta

import (
	"context"
	"slices"
	"time"

	"dmps/meta/state"
	"dmps/raid"
)

const (
	healBatch = 1024 // members that one command replaces: some milliseconds in the state
	healShare = 10   // planning takes at most this fraction of the time: it holds the state
)

// healer has members replaced, during one reign.
type healer struct {
	seen    uint64          // index of the last command when nothing was to be done
	refused []raid.ChunkID  // likewise: what was to be placed elsewhere then,
	full    []raid.ServerID // and who was to get nothing
	next    time.Time       // no plan before
}

// heal has replaced what is to be replaced, when anything changed since it
// looked last.
func (h *healer) heal(ctx context.Context, n *Node, r *reign) {
	for time.Now().After(h.next) {
		c := &state.Heal{Limit: healBatch, Rebuilding: n.cfg.MaxRebuilding, Moves: n.cfg.MaxMoves}
		applied := n.disks.state.Applied()
		settling, would := false, false
		start := time.Now()
		err := n.disks.state.View(func(s *state.State) {
			r.mu.Lock()
			settling = r.settlingLocked(s, start, &n.cfg)
			c.Refused, c.Full = r.refusedLocked(s, start, n.cfg.Grace), r.fullLocked(s, start)
			r.mu.Unlock()
			if settling || applied == h.seen && slices.Equal(c.Refused, h.refused) && slices.Equal(c.Full, h.full) {
				return
			}
			h.refused, h.full = c.Refused, c.Full
			would = (len(c.Refused) > 0 || s.MayHeal()) && s.WouldHeal(c)
			h.next = start.Add(healShare * time.Since(start))
			if !would {
				h.seen = applied
			}
		})
		if err != nil {
			n.unusable(err)
			return
		}
		if !would {
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

// settlingLocked reports whether nothing may be replaced now: servers are coming back, or one
// that the state calls down was heard. A heartbeat may come between the verdict and its
// command, and to a leader that is new nobody could say anything yet.
func (r *reign) settlingLocked(s *state.State, now time.Time, cfg *Config) bool {
	for id, sv := range s.Servers {
		b, ok := r.mu.beats[id]
		if sv.State == state.ServerDown && ok && b.incarnation == sv.Incarnation && b.away(now) <= cfg.SuspectAfter {
			return true
		}
	}
	return now.Before(r.mu.settle)
}
