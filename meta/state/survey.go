package state

import (
	"sync/atomic"

	"dmps/raid"
)

// survey is what a walk over a volume's groups finds. It follows from the groups and from
// how the servers are seen, and is kept until one of these changes: status, metrics and
// the look for volumes that need care would else walk all groups each time.
type survey struct {
	degraded   uint64 // groups with a member that cannot be relied on
	left       int    // further losses that the worst of them survives
	since      int64  // since when a group misses a member, Unix milliseconds; 0: none does
	rebuilding uint64
	moving     uint64
	bereft     uint64 // groups of which fewer than K members hold their data, wherever they are
	empty      uint64 // of these: groups of which no member is left
	reserved   uint64 // bytes

	away     bool // a member is lost, or its server is not up
	filling  bool // a member is being filled, and its server is up
	thin     int  // the first group that cannot be read; -1: none
	readable int  // members of that one that can be
}

// view is a volume's survey, once somebody has asked for it. Readers store it, who share
// the state with others; commands take it away.
type view struct {
	survey atomic.Pointer[survey]
	stuck  atomic.Pointer[stuckView]
}

// sight is what surveys depend on of a server.
type sight struct {
	incarnation raid.Incarnation
	state       ServerState
	away        int64
	draining    bool
}

// views keeps surveys, and what makes them outdated.
type views struct {
	of      map[raid.VolumeID]*view
	sights  map[raid.ServerID]sight
	changes map[raid.ServerID]*atomic.Uint64
	touched map[raid.ServerID]struct{} // servers, by the command that is carried out
	walked  atomic.Uint64              // groups
}

func newViews() *views {
	return &views{
		of: map[raid.VolumeID]*view{}, sights: map[raid.ServerID]sight{},
		changes: map[raid.ServerID]*atomic.Uint64{}, touched: map[raid.ServerID]struct{}{},
	}
}

// Walked is how many groups were walked so far for what status shows.
func (s *State) Walked() uint64 { return s.index.views.walked.Load() }

// Changes counts the commands that changed a server's record; nil: there is no such
// server. The count may be read without a lock on the state.
func (s *State) Changes(id raid.ServerID) *atomic.Uint64 { return s.index.views.changes[id] }

// outdate forgets what is known of a volume.
func (w *views) outdate(id raid.VolumeID) {
	if v := w.of[id]; v != nil {
		v.survey.Store(nil)
		v.stuck.Store(nil)
	}
}

// settleViews ends a command for the surveys: dirty is the groups that it touched.
func (s *State) settleViews(dirty []GroupKey) {
	w := s.index.views
	last := raid.VolumeID(0)
	for _, k := range dirty {
		if k.Volume == last {
			continue
		}
		last = k.Volume
		switch {
		case s.Volumes[last] == nil:
			delete(w.of, last)
		case w.of[last] == nil:
			w.of[last] = &view{}
		default:
			w.outdate(last)
		}
	}
	for id := range w.touched {
		s.settleServer(id)
	}
	clear(w.touched)
}

func (s *State) settleServer(id raid.ServerID) {
	w := s.index.views
	count := w.changes[id]
	if count == nil {
		count = &atomic.Uint64{}
		w.changes[id] = count
	}
	count.Add(1)
	sv := s.Servers[id]
	if sv == nil {
		delete(w.changes, id)
		delete(w.sights, id)
		return
	}
	is := sight{sv.Incarnation, sv.State, sv.Away, sv.Draining}
	if w.sights[id] == is {
		return
	}
	w.sights[id] = is
	for c := range s.index.held[id] {
		w.outdate(s.chunks[c].Volume)
	}
}

// survey gives what is known of a volume, or looks.
func (s *State) survey(v *Volume) *survey {
	w := s.index.views.of[v.ID]
	if w == nil {
		return s.walk(v) // the command that made it is not over
	}
	is := w.survey.Load()
	if is == nil {
		is = s.walk(v)
		w.survey.Store(is)
	}
	return is
}

// walk looks at all groups of a volume.
func (s *State) walk(v *Volume) *survey {
	s.index.views.walked.Add(uint64(len(v.Groups)))
	out := &survey{left: v.Geometry.M, reserved: v.Reserved(), thin: -1}
	for g, group := range v.Groups {
		missing, holders, readable := 0, 0, 0
		out.noteSince(group.Since)
		out.moving += uint64(len(group.Pending))
		for _, m := range group.Members {
			sv := s.Servers[m.Server]
			alive := sv != nil && sv.Incarnation == m.Incarnation
			up := alive && sv.State == ServerUp && m.State != raid.MemberLost
			if alive {
				out.noteSince(sv.Away)
			}
			if !up || m.State != raid.MemberInSync {
				missing++
			} else {
				readable++
			}
			switch {
			case m.State == raid.MemberInSync:
				holders++
			case m.State == raid.MemberRebuilding:
				out.rebuilding++
				out.filling = out.filling || up
			}
			out.away = out.away || !up
		}
		for _, p := range group.Pending {
			out.filling = out.filling || s.Servers[p.Member.Server].State == ServerUp
		}
		if holders < v.Geometry.K {
			out.bereft++
			if holders == 0 {
				out.empty++
			}
		}
		if readable < v.Geometry.K && out.thin < 0 {
			out.thin, out.readable = g, readable
		}
		if missing > 0 {
			out.degraded++
			out.left = min(out.left, v.Geometry.M-missing)
		}
	}
	return out
}

func (v *survey) noteSince(t int64) {
	if t != 0 && (v.since == 0 || t < v.since) {
		v.since = t
	}
}
