package client

import (
	"slices"

	"dmps/raid"
)

// Rows that at most M members hold, where K <= M, are written only when meta has
// noted who misses them: see raid.Log.GuardThin. A member counts as noted while
// meta says that it is being rebuilt, and takes nobody's word for the opposite.

// notedLocked tells the translator whether the absence of a member is noted.
func (v *Volume) notedLocked(g raid.GroupID, c raid.Col) {
	if v.mu.log == nil {
		return
	}
	ref := v.member(g, c).ref
	v.mu.log.SetNoted(g, c, ref == nil || ref.rebuilding && !ref.claimed)
}

// askSoonLocked has meta told at once, if p's absence keeps rows from being
// written until it knows.
func (v *Volume) askSoonLocked(p *peer) {
	if v.mu.log == nil {
		return
	}
	for _, m := range p.members {
		if v.mu.log.Unnoted(m.group) != 0 {
			select {
			case v.urgent <- struct{}{}:
			default:
			}
			return
		}
	}
}

// mustAskLocked reports whether any group could be written if meta knew who
// misses that.
func (v *Volume) mustAskLocked() bool {
	for g := range v.layout.Groups {
		if v.mu.log.Unnoted(raid.GroupID(g)) != 0 {
			return true
		}
	}
	return false
}

// leaseReport is the report that goes to meta.
func (v *Volume) leaseReport() Report {
	r := v.Report()
	if v.mu.log == nil {
		return r
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	r.Known = max(v.mu.version, v.layout.Version)
	for g := range v.layout.Groups {
		out := v.mu.log.Unnoted(raid.GroupID(g))
		for c := range raid.Col(v.geo.Members()) {
			if m := v.member(raid.GroupID(g), c); m.ref != nil && out&(1<<c) != 0 {
				r.Behind = append(r.Behind, m.chunk)
			}
		}
	}
	if len(r.Rebuilt) > 0 {
		r.Rebuilt = slices.DeleteFunc(r.Rebuilt, v.claimLocked())
	}
	return r
}

// claimLocked gives a function that notes of a chunk that meta is told that it is
// rebuilt. It reports true for those of which that is not so any more: since the
// report was made the member may have gone and missed rows.
func (v *Volume) claimLocked() func(raid.ChunkID) bool {
	members := make(map[raid.ChunkID]*member)
	for i := range v.memberOf {
		if m := &v.memberOf[i]; m.ref != nil {
			members[m.chunk] = m
		}
	}
	return func(c raid.ChunkID) bool {
		m := members[c]
		if m == nil {
			return false // no column's own: nothing is written without it because of what is said here
		}
		if v.mu.log.Missing(m.ref.group, m.ref.col) != 0 || m.peer.state != peerUp || m.ref.conn != m.peer.conn() {
			return true
		}
		m.ref.claimed = true
		v.notedLocked(m.ref.group, m.ref.col)
		return false
	}
}

// absenceNoted takes it in that meta has noted who is about to miss rows, and
// lets those be written.
func (v *Volume) absenceNoted(chunks []raid.ChunkID) {
	if len(chunks) == 0 {
		return
	}
	noted := make(map[raid.ChunkID]bool, len(chunks))
	for _, c := range chunks {
		noted[c] = true
	}
	a := v.lock()
	for i := range v.memberOf {
		if m := &v.memberOf[i]; m.ref != nil && noted[m.chunk] {
			m.ref.rebuilding, m.ref.claimed = true, false
			v.notedLocked(m.ref.group, m.ref.col)
		}
	}
	v.unlock(a)
	v.idle()
}
