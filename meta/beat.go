package meta

import (
	"sync/atomic"
	"time"

	"dmps/meta/metapb"
	"dmps/meta/state"
	"dmps/raid"
)

// calm is a heartbeat after which nothing was to be done, for as long as nobody changes
// what is known of its server. Those that say the same need no look at the state, which
// a command may hold.
type calm struct {
	changes *atomic.Uint64 // of the server's record
	seen    uint64         // of these
	cluster string
	cares   bool // it is offered volumes that need care
	total   uint64
	wanted  uint64
	short   bool
}

// calmLocked answers a heartbeat that says nothing new; nil: it is to be looked at.
func (r *reign) calmLocked(m *metapb.HeartbeatRequest, now time.Time) *metapb.HeartbeatResponse {
	id := raid.ServerID(m.Id)
	b := r.mu.beats[id]
	c := b.calm
	switch {
	case c == nil || b.incarnation != raid.Incarnation(m.Incarnation) || c.changes.Load() != c.seen:
		return nil
	case !m.ChunksUnchanged || len(m.About) > 0 || m.ChunksHash != b.list.hash || m.NotAccepting || !b.deaf.IsZero():
		return nil
	case m.MemoryTotal != c.total || m.Short != c.short || m.WantedFreeBytes != c.wanted:
		return nil
	case now.Sub(r.mu.care.looked) >= careEvery:
		return nil // one of them looks for all
	}
	r.mu.beats[id] = beat{incarnation: b.incarnation, at: now, used: m.MemoryUsed, list: b.list, calm: c}
	r.mu.care.sessions(m.Owned, now)
	res := &metapb.HeartbeatResponse{Cluster: c.cluster}
	if c.cares {
		res.Care = r.mu.care.offers
	}
	return res
}

// beatLocked compares a heartbeat with the state: it fills in the answer, and says what is to
// be noted.
func (r *reign) beatLocked(s *state.State, m *metapb.HeartbeatRequest, res *metapb.HeartbeatResponse, cfg Config) (changes []state.Command) {
	id, inc := raid.ServerID(m.Id), raid.Incarnation(m.Incarnation)
	res.Cluster = s.Cluster
	sv := s.Servers[id]
	if sv == nil || sv.Incarnation != inc {
		res.Unknown = true
		return nil
	}
	now := time.Now()
	b := beat{incarnation: inc, at: now, used: m.MemoryUsed}
	heard := state.ServerUp
	if m.NotAccepting {
		heard, b.deaf = sv.State, now
		if old := r.mu.beats[id]; old.incarnation == inc && !old.deaf.IsZero() {
			b.deaf = old.deaf
		}
	}
	if old := r.mu.beats[id]; old.incarnation == inc {
		b.list = old.list
	}
	b.list, res.ListChunks = b.list.after(m)
	r.mu.beats[id] = b
	r.mu.care.sessions(m.Owned, time.Now())
	if sv.State == state.ServerUp && !sv.Draining {
		res.Care = r.careOffersLocked(s, time.Now(), cfg)
	}
	if sv.Unverified && b.list == nil {
		heard = sv.State // what it holds counts when it has said what that is
	}
	if sv.State == state.ServerDown && heard == state.ServerUp {
		r.returnsLocked(cfg)
	}
	if b.list != nil { // before it is up: an inventory may take members from it
		res.Drop, changes = r.holdingsLocked(s, sv, b.list, m.MemoryUsed)
		res.Describe = r.describedLocked(id, m.About)
	}
	if sv.State != heard || resized(sv.MemoryTotal, m.MemoryTotal) {
		changes = append(changes, state.Command{SetServer: &state.SetServer{
			ID: id, Incarnation: inc, State: heard, MemoryTotal: m.MemoryTotal,
		}})
	}
	if m.Short != sv.Short || m.Short && resized(sv.Wanted+1, m.WantedFreeBytes+1) {
		changes = append(changes, state.Command{Shortage: &state.Shortage{
			ID: id, Incarnation: inc, Short: m.Short, Wanted: m.WantedFreeBytes,
		}})
	}
	if len(changes) == 0 && len(res.Drop) == 0 && len(res.Describe) == 0 && b.list != nil && b.list.clean && b.list.hash != 0 {
		b.calm = &calm{
			changes: s.Changes(id), seen: s.Changes(id).Load(), cluster: s.Cluster, cares: sv.State == state.ServerUp && !sv.Draining,
			total: m.MemoryTotal, short: m.Short, wanted: m.WantedFreeBytes,
		}
		r.mu.beats[id] = b
	}
	return changes
}
