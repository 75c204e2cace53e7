package raid

import (
	"bytes"
	"slices"

	"pgregory.net/rapid"
)

// stepCrash loses the client with everything in flight, and recovers the map
// from the headers of the members that are up.
func (s *sim) stepCrash() {
	if rapid.IntRange(0, 2).Draw(s.t, "really") > 0 {
		s.t.Skip("not now")
	}
	s.crash()
}

// stepCrashes loses the client in mid-batch while a member that lacks the batch
// is away. The next client goes on, so that what the batch replaced is
// overwritten. Then the member is back, and the client is lost at once, before
// that is filled.
func (s *sim) stepCrashes() {
	op := s.drawOp()
	g, c := op.p.Group, Col(rapid.IntRange(0, s.cfg.Geometry.Members()-1).Draw(s.t, "member"))
	m := s.members[g][c]
	if op.todo&(1<<c) == 0 || !m.up || op.to[c] != m {
		s.t.Skip("has it, or is down")
	}
	for o := range Col(s.cfg.Geometry.Members()) {
		if o != c && op.todo&(1<<o) != 0 && s.members[g][o].up && op.to[o] == s.members[g][o] {
			s.land(op, o, op.p.Rows)
		}
	}
	s.down(g, c, m)
	if rapid.Bool().Draw(s.t, "given up") {
		op.todo = 0 // its session has ended
		s.finish(op)
	}
	s.crash()
	s.stepQuiet()
	for range rapid.IntRange(0, 4).Draw(s.t, "batches") {
		s.stepWrite()
		s.stepQuiet()
	}
	if m := s.members[g][c]; !m.up && !m.lost {
		for _, op := range s.ghosts {
			if op.p.Group == g {
				s.arrive(op, c, m)
			}
		}
		s.comeUp(g, c, m)
	}
	s.crash()
}

func (s *sim) crash() {
	// The metadata service may have believed what it was told of pending
	// members, and the client did not come to hear of that.
	after := make([][]*simMember, len(s.members))
	for g := range s.members {
		after[g] = slices.Clone(s.members[g])
		for c, m := range after[g] {
			if rapid.Bool().Draw(s.t, "reported") {
				s.claim(GroupID(g), Col(c), m)
			}
		}
		for c, pd := range s.pending[g] {
			if pd != nil && s.log.Vouched(GroupID(g), Col(c)) && rapid.Bool().Draw(s.t, "believed") {
				after[g][c] = pd
			}
		}
	}
	strict := s.recoverable(after, func(m *simMember) bool { return m.up })
	if !strict && !s.recoverable(after, func(m *simMember) bool { return !m.lost }) {
		s.t.Skip("too much is gone")
	}
	forgets := strict && s.forget1(after)
	clean := strict && !forgets && len(s.ops) == 0 && s.log.Doomed() == 0 && !s.log.Limbo()
	s.endLife(after)
	accepted := s.reopen(clean)
	if rapid.IntRange(0, 3).Draw(s.t, "again") == 0 {
		s.endLife(s.members) // at once
		accepted = s.reopen(false) || accepted
	}
	s.useAll()
	for p := range s.pages {
		if accepted {
			s.accept(PageNo(p))
		} else {
			s.settle(PageNo(p))
		}
	}
	for g := range s.pending {
		for c, pd := range s.pending[g] {
			if pd != nil {
				s.log.AddPending(GroupID(g), Col(c))
				pd.old = true
				if pd.up {
					s.usePending(GroupID(g), Col(c), pd)
				}
			}
		}
	}
}

// reopen starts the next life. A client that refuses to is given the members back
// that are away, one by one. When all are there and it refuses still, since more
// was lost than members can be, the loss is accepted; whole says that it must not.
func (s *sim) reopen(whole bool) (accepted bool) {
	for {
		s.newLog()
		if s.recover(false) && s.settleLog() {
			return false
		}
		if whole && !s.full {
			s.t.Fatalf("the recovery refuses, although every row in use can be read: %+v", s.state)
		}
		s.views, s.erasures, s.ops = nil, nil, nil
		if s.oneBack() {
			continue
		}
		s.newLog()
		s.recover(true)
		if s.unsettled = !s.settleLog(); s.unsettled {
			s.log.BeginAnyway()
		}
		return true
	}
}

// accept takes page p as it is found: a loss was accepted. When not even that could
// be settled, or it is not known which pages are gone, the next client may find something
// else.
func (s *sim) accept(p PageNo) {
	got, ok := s.read(p)
	s.pages[p] = simPage{want: value{found: bytes.Clone(got)}, eio: !ok, any: !ok || s.unsettled || s.state.Loss()}
}

// forget1 has a member's memory turn to zeros under its server, sometimes, if the
// others can do without it.
func (s *sim) forget1(after [][]*simMember) bool {
	if rapid.IntRange(0, 5).Draw(s.t, "forget") > 0 {
		return false
	}
	g, c, _ := s.drawMember()
	m := after[g][c]
	slots := m.slots
	m.slots = make([]simSlot, s.cfg.Rows)
	for i := range m.slots {
		m.slots[i].header = make([]byte, HeaderBytes(s.cfg.Geometry, c))
	}
	if m.lost || !s.recoverable(after, func(o *simMember) bool { return o.up && o != m }) {
		m.slots = slots
		return false
	}
	return true
}

// endLife ends a client's life: what it had on its way lands or not.
func (s *sim) endLife(after [][]*simMember) {
	for _, op := range s.ops {
		s.forget(op)
	}
	for _, e := range s.erasures {
		for c := range Col(s.cfg.Geometry.Members()) {
			// One that is down may get it now; its sessions have ended when it returns.
			if e.todo&(1<<c) != 0 && !e.to[c].lost {
				s.eraseAt(e, c, int(s.rnd.Uint32N(uint32(e.Rows+1))))
			}
		}
	}
	for _, v := range s.views {
		for c := range Col(s.cfg.Geometry.Members()) {
			switch {
			case v.todo&(1<<c) == 0:
			case s.rnd.Uint32N(3) == 0:
				s.putView(v, v.to[c])
			case s.rnd.Uint32N(3) == 0 && !v.to[c].lost:
				v.to[c].slots[v.Index] = simSlot{} // begun, and not ended
			}
		}
	}
	for g := range s.members {
		for c, pd := range s.pending[g] {
			if after[g][c] == pd && pd != nil {
				pd.more = true
				s.pending[g][c] = nil
			}
		}
		s.members[g] = after[g]
	}
	for _, list := range [][]*simOp{s.ghosts, s.ops} {
		for _, op := range list {
			for c := range Col(s.cfg.Geometry.Members()) {
				for _, m := range []*simMember{s.members[op.p.Group][c], s.pending[op.p.Group][c]} {
					if m != nil && m.up {
						s.arrive(op, c, m) // a new session with those that are up
					}
				}
			}
		}
	}
	s.ghosts = append(s.ghosts, s.ops...)
	s.ops, s.reads, s.erasures, s.views, s.advances = nil, nil, nil, nil, 0
}

// oneBack brings a member back that the last recovery could not read.
func (s *sim) oneBack() bool {
	for g := range s.members {
		for c, m := range s.members[g] {
			if m.up || m.lost {
				continue
			}
			for _, op := range s.ghosts {
				if op.p.Group == GroupID(g) {
					s.arrive(op, Col(c), m)
				}
			}
			m.up = true
			return true
		}
	}
	return false
}

// recoverable reports whether the members of each group that are there are enough
// to read its headers and every row in use, as far as a recovery believes them.
func (s *sim) recoverable(members [][]*simMember, there func(*simMember) bool) bool {
	was := s.members
	s.members = members
	defer func() { s.members = was }()
	for g := range GroupID(s.cfg.Groups) {
		believed := s.believed(g, there)
		if popcount(believed) < s.cfg.Geometry.K || s.mayHide(g, believed, there) {
			return false
		}
		for i := Index(viewRows); i < Index(s.cfg.Rows); i++ {
			if s.log.live[s.log.row(g, i)] > 0 {
				if !s.log.CanDecode(s.holders(g, i, false)&believed, s.log.FilledCols(g, i)) {
					return false
				}
			} else if !s.harmless(g, i, believed) {
				return false
			}
		}
	}
	return true
}

// mayHide reports whether more than M members may miss rows, as far as the next client
// can tell, so that those who cannot be read may hide one.
func (s *sim) mayHide(g GroupID, believed uint32, there func(*simMember) bool) bool {
	whole, away := s.log.groups[g].view.whole, false
	for _, v := range s.views {
		if v.Group == g {
			whole &= v.Whole
		}
	}
	for _, m := range s.members[g] {
		away = away || !m.lost && !there(m)
	}
	return away && popcount(s.log.all()&^(believed&whole)) > s.cfg.Geometry.M
}

// harmless reports whether a recovery from these members does not refuse to open
// because of row i, which is dead: it can decode what the row holds, or a member tells that it
// is dead, as far as the view lets it, and enough tell that there is nothing where a slot is damaged.
func (s *sim) harmless(g GroupID, i Index, believed uint32) bool {
	var h RowHeaders
	headers := make([][]byte, s.cfg.Geometry.Members())
	for c, m := range s.members[g] {
		if believed&(1<<c) != 0 {
			headers[c] = s.header(g, Col(c), m, i)
		}
	}
	h.Parse(s.cfg.Geometry, s.log.Site(g, i), headers, Witnesses{View: believed})
	if h.ok == 0 && h.broken != 0 && popcount(h.avail&^h.broken) < s.cfg.Geometry.K {
		return false
	}
	if s.log.CanDecode(h.have, h.newest.Filled) {
		return true
	}
	if v := &s.log.groups[g].view; h.newest.Seq <= v.settled {
		return h.avail&^h.broken&^h.have&v.whole != 0
	}
	return h.newest.Members == s.log.all()
}

// believed is the mask of members of group g that are there and that a recovery
// believes. The record of the view that is on its way counts as missing.
func (s *sim) believed(g GroupID, there func(*simMember) bool) uint32 {
	mask := s.log.groups[g].view.members
	for _, v := range s.views {
		if v.Group == g && v.Seq != s.log.groups[g].view.seq {
			mask &= v.Members
		}
	}
	for c, m := range s.members[g] {
		if m.filling || !there(m) {
			mask &^= 1 << c
		}
	}
	return mask
}

// recover rebuilds the map. It reports false when a client would refuse to go on, and ends
// then, unless the loss is accepted.
func (s *sim) recover(accept bool) bool {
	r := NewRecovery(s.log)
	s.state, s.full = Incomplete{}, false
	g := s.cfg.Geometry
	for gid := range s.members {
		var rows [viewRows][][]byte
		for i := range rows {
			rows[i] = make([][]byte, g.Members())
			for c, m := range s.members[gid] {
				if m.up {
					rows[i][c] = s.header(GroupID(gid), Col(c), m, Index(i))
				}
			}
		}
		found := s.log.SetView(GroupID(gid), rows, s.filling(gid))
		believed := s.log.Witnesses(GroupID(gid)).View
		s.trust[int(gid)] = s.log.Witnesses(GroupID(gid)).Trust
		read := uint32(0)
		for c, m := range s.members[gid] {
			m.unsure = !m.up || believed&(1<<c) == 0
			if m.unsure {
				s.log.SetUp(GroupID(gid), Col(c), false)
			}
			if m.up { // as package client: those that are being rebuilt too
				read |= 1 << c
			}
		}
		switch {
		case found && (accept || s.log.Enough(GroupID(gid), read)):
		case !accept:
			return false
		default:
			s.log.AcceptView(GroupID(gid), read)
			for c, m := range s.members[gid] {
				m.unsure = read&(1<<c) == 0
				s.log.SetUp(GroupID(gid), Col(c), !m.unsure)
			}
		}
	}
	for _, row := range s.rnd.Perm(s.cfg.Groups * int(s.cfg.Rows)) {
		gid, i := GroupID(row/int(s.cfg.Rows)), Index(row%int(s.cfg.Rows))
		headers := make([][]byte, g.Members())
		newest := Seq(0)
		for c := range headers {
			m := s.members[gid][c]
			if !m.up {
				continue
			}
			headers[c] = s.header(gid, Col(c), m, i)
			if h, err := ParseHeader(headers[c]); err == nil && h.Holds() && (!m.unsure || h.Seq <= s.trust[int(gid)]) {
				newest = max(newest, h.Seq)
			}
		}
		s.rowSeq[gid][i] = newest
		if err := r.Row(gid, i, headers); err != nil {
			s.t.Fatal(err)
		}
	}
	notes := make(map[Slot][]byte)
	slots := r.Notes()
	for _, slot := range slots {
		if page, ok := s.readSlot(s.log.Place(slot), KindNotes, 0); ok {
			notes[slot] = page
		}
	}
	for slot, page := range notes {
		if err := r.Note(slot, page); err != nil {
			s.t.Fatal(err)
		}
	}
	for i, slot := range slots {
		if page, ok := notes[slot]; !ok {
			r.Unreadable(i, ^uint32(0)) // nobody falls silent meanwhile
		} else {
			if err := r.Bind(slot, page); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	s.state = r.Incomplete()
	r.Finish()
	for gid := range s.members {
		for c, m := range s.members[gid] {
			if m.filling && !m.unsure { // it is compared before it is used
				m.unsure = true
				s.log.SetUp(GroupID(gid), Col(c), false)
			}
		}
	}
	return !s.state.Loss()
}

// filling is the mask of members of a group that are being rebuilt.
func (s *sim) filling(gid int) (mask uint32) {
	for c, m := range s.members[gid] {
		if m.filling {
			mask |= 1 << c
		}
	}
	return mask
}

// useAll takes the members into use that the recovery did not read.
func (s *sim) useAll() {
	for g := range s.members {
		for c, m := range s.members[g] {
			if m.up && m.unsure {
				m.up = false
				s.comeUp(GroupID(g), Col(c), m)
			}
		}
	}
}

// settle takes what a recovery decided about page p: the last answered write,
// or one that was not answered. What it decided against never comes back.
func (s *sim) settle(p PageNo) {
	pg := &s.pages[p]
	pg.busy = false
	got, ok := s.read(p)
	if pg.eio = !ok; ok {
		s.decide(p, got)
		return
	}
	at := s.log.Place(s.log.Lookup(p).Slot)
	have := s.holders(at.Group, at.Index, true) & s.believed(at.Group, func(m *simMember) bool { return !m.unsure })
	if s.log.CanDecode(have, s.log.FilledCols(at.Group, at.Index)) {
		s.t.Fatalf("page %d is EIO after recovery, although its row can be read: %s", p, s.where(p))
	}
}

// decide holds page p to what it reads as from now on.
func (s *sim) decide(p PageNo, got []byte) {
	pg := &s.pages[p]
	if pg.any {
		*pg = simPage{want: value{found: bytes.Clone(got)}, busy: pg.busy}
		return
	}
	for _, v := range append(pg.maybe, pg.want) {
		if bytes.Equal(got, s.content(p, v)) {
			*pg = simPage{want: v, busy: pg.busy}
			return
		}
	}
	s.t.Fatalf("page %d reads neither as %+v nor as any of %+v after recovery: %s", p, pg.want, pg.maybe, s.where(p))
}
