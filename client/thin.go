package client

import (
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
	m := v.member(g, c)
	if ref := m.ref; ref != nil {
		v.mu.log.SetNoted(g, c, ref.rebuilding && !ref.claimed, ref.claimed && ref.rebuilding)
		return
	}
	// Either the layout says that it is lost, or its server: of that meta knows nothing.
	v.mu.log.SetNoted(g, c, m.gone == 0 || m.told, false)
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

// leaseReport is the report that goes to meta. Only behind a renewal that
// succeeded, as answers says, does it claim of further members that they hold
// everything. What is claimed cannot be taken back, since meta may act on it at
// any time, and binds the writes to those members: for as long as meta is gone
// that would gain nothing.
func (v *Volume) leaseReport(answers bool) Report {
	r := v.Report()
	if v.mu.log == nil {
		return r
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	r.Rebuilt = []raid.ChunkID{}
	for g := range v.layout.Groups {
		out := v.mu.log.Unnoted(raid.GroupID(g))
		for c := range raid.Col(v.geo.Members()) {
			m := v.member(raid.GroupID(g), c)
			if out&(1<<c) != 0 {
				r.Behind = append(r.Behind, m.named())
			}
			if m.ref == nil || !m.ref.rebuilding || v.mu.log.InDoubt(raid.GroupID(g))&(1<<c) != 0 {
				continue // rows leave a column in doubt out, which stays noted for that
			}
			if !answers && !m.ref.claimed {
				continue
			}
			if v.mu.log.Missing(raid.GroupID(g), c) == 0 && v.mu.log.InView(raid.GroupID(g), c) && m.peer.state == peerUp && m.ref.conn == m.peer.conn() {
				m.ref.claimed = true
				v.notedLocked(raid.GroupID(g), c)
				r.Rebuilt = append(r.Rebuilt, m.chunk)
			}
		}
	}
	for i := range v.movers {
		m := &v.movers[i]
		if m.ref != nil && v.vouchLocked(m, answers) {
			r.Rebuilt = append(r.Rebuilt, m.chunk)
		}
	}
	return r
}

// named is the chunk that the layout has in a seat; 0: it has none there.
func (m *member) named() raid.ChunkID {
	if m.ref == nil {
		return m.gone
	}
	return m.chunk
}

// absenceNoted takes it in that meta has noted who is about to miss rows, and
// lets those be written. It has not noted all of them where it knew of members that are
// lost: the layout that came with its answer says whom.
func (v *Volume) absenceNoted(chunks []raid.ChunkID) {
	if len(chunks) == 0 {
		return
	}
	noted := make(map[raid.ChunkID]bool, len(chunks))
	for _, c := range chunks {
		noted[c] = true
	}
	a := v.lock()
	w := v.geo.Members()
	for i := range v.memberOf {
		m := &v.memberOf[i]
		switch {
		case !noted[m.named()] || m.ref != nil && !m.ref.rebuilding:
			continue
		case m.ref != nil:
			m.ref.claimed = false
		}
		v.notedLocked(raid.GroupID(i/w), raid.Col(i%w))
	}
	v.eraseSoonLocked() // views may have waited for that
	v.unlock(a)
	v.idle()
}
