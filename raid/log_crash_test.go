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
// is away. The next client moves what it had to take on trust, and goes on, so
// that what the batch replaced is overwritten. Then the member is back, and the
// client is lost at once, before that is filled.
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
	for s.log.Trusted() > 0 {
		before := s.log.Trusted()
		s.stepTrust()
		s.stepQuiet()
		if s.log.Trusted() == before {
			s.t.Skip("the rows on trust cannot be moved now")
		}
	}
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
	if s.doubt() {
		s.t.Skip("beyond the limit that Recovery documents: a row on trust is not moved yet")
	}
	// The metadata service may have believed what it was told of pending
	// members, and the client did not come to hear of that.
	after := make([][]*simMember, len(s.members))
	for g := range s.members {
		after[g] = slices.Clone(s.members[g])
		for c, m := range after[g] {
			if m.filling && m.up && s.log.Missing(GroupID(g), Col(c)) == 0 && rapid.Bool().Draw(s.t, "reported") {
				m.filling = false
			}
		}
		for c, pd := range s.pending[g] {
			if pd != nil && s.log.Vouched(GroupID(g), Col(c)) && rapid.Bool().Draw(s.t, "believed") {
				after[g][c] = pd
			}
		}
	}
	if !s.recoverable(after) {
		s.t.Skip("some rows cannot be read now")
	}
	if s.sure && s.log.Doomed() == 0 && !s.log.Limbo() {
		for p := range s.pages {
			pg := &s.pages[p]
			pg.maybe, pg.old = pg.maybe[pg.old:], 0
		}
	}
	clean := len(s.ops) == 0 && s.log.Doomed() == 0 && !s.log.Limbo()
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
	s.ops, s.reads, s.erasures, s.advances = nil, nil, nil, 0
	s.newLog()
	unnamed := s.recover()
	if clean && unnamed > 0 {
		s.t.Fatalf("the recovery does not know %d pages of rows, although every row in use can be read", unnamed)
	}
	for p := range s.pages {
		s.settle(PageNo(p))
		s.pages[p].old = len(s.pages[p].maybe)
	}
	s.doubt()
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

// recoverable reports whether enough members are up, when they are these, to
// read the headers of every group and every row in use.
func (s *sim) recoverable(members [][]*simMember) bool {
	was := s.members
	s.members = members
	defer func() { s.members = was }()
	for g := range GroupID(s.cfg.Groups) {
		up := 0
		filling := uint32(0)
		for c, m := range members[g] {
			switch {
			case m.filling:
				filling |= 1 << c
			case m.up:
				up++
			}
		}
		if up < s.cfg.Geometry.K {
			return false
		}
		for i := range Index(s.cfg.Rows) {
			if s.log.live[s.log.row(g, i)] > 0 && !s.log.CanDecode(s.holders(g, i, true)&^filling, s.log.FilledCols(g, i)) {
				return false
			}
		}
	}
	return true
}

// filling is the mask of members of group g that are replacements and do not
// hold everything yet.
func (s *sim) filling(g GroupID) uint32 {
	var mask uint32
	for c, m := range s.members[g] {
		if m.filling {
			mask |= 1 << c
		}
	}
	return mask
}

func (s *sim) anyUnsure() bool {
	for g := range s.members {
		for _, m := range s.members[g] {
			if m.unsure {
				return true
			}
		}
	}
	return false
}

// doubt reports whether a row in use was sent to a member that the recovery
// could not reach, and never arrived there. Such a row must be on trust, unless
// that member is being filled: then no recovery asks it before it has the row.
// Damage contradicts nothing.
func (s *sim) doubt() (doubt bool) {
	for g := range GroupID(s.cfg.Groups) {
		for i := range Index(s.cfg.Rows) {
			if s.log.live[s.log.row(g, i)] == 0 {
				continue
			}
			claimed := s.log.Holders(g, i) &^ s.unfilled(g, i)
			lacks := claimed &^ s.holders(g, i, false) &^ s.filling(g) &^ s.damaged(g, i)
			if lacks == 0 {
				continue
			}
			if !hasBit(s.log.groups[g].trusted, uint32(i)) {
				s.t.Fatalf("row %d of group %d is not on trust, but members %#b lack it", i, g, lacks)
			}
			doubt = true
		}
	}
	return doubt
}

// damaged is the mask of members whose header of a row is not sound.
func (s *sim) damaged(g GroupID, i Index) (mask uint32) {
	for c, m := range s.members[g] {
		if b := m.slots[i].header; b != nil {
			if _, err := ParseHeader(b); err != nil {
				mask |= 1 << c
			}
		}
	}
	return mask
}

func (s *sim) recover() (unnamed int) {
	r := NewRecovery(s.log)
	g := s.cfg.Geometry
	for _, row := range s.rnd.Perm(s.cfg.Groups * int(s.cfg.Rows)) {
		gid, i := GroupID(row/int(s.cfg.Rows)), Index(row%int(s.cfg.Rows))
		headers := make([][]byte, g.Members())
		newest := Seq(0)
		for c := range headers {
			m := s.members[gid][c]
			m.unsure = !m.up || m.filling
			if m.unsure {
				continue
			}
			if headers[c] = m.slots[i].header; headers[c] == nil {
				headers[c] = make([]byte, HeaderBytes(g, Col(c)))
				continue
			}
			if h, err := ParseHeader(headers[c]); err == nil {
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
	for _, slot := range slots {
		if page, ok := notes[slot]; ok {
			if err := r.Bind(slot, page); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	_, unnamed = r.Incomplete()
	r.Finish()
	s.sure = !s.anyUnsure()
	for g := range s.members {
		for c, m := range s.members[g] {
			if m.up && m.filling {
				m.up = false
				s.comeUp(GroupID(g), Col(c), m)
			}
		}
	}
	return unnamed
}

// settle takes what a recovery decided about page p: the last answered write,
// or one that was not answered.
func (s *sim) settle(p PageNo) {
	pg := &s.pages[p]
	pg.busy, pg.eio = false, false
	got, ok := s.read(p)
	if !ok {
		if pg.eio = len(pg.maybe) > 0; !pg.eio {
			s.t.Fatalf("page %d is EIO after recovery, although its row can be read: %s", p, s.where(p))
		}
		return
	}
	if bytes.Equal(got, s.content(p, pg.want)) {
		return
	}
	for i, v := range pg.maybe {
		if bytes.Equal(got, s.content(p, v)) {
			pg.maybe[i], pg.want = pg.want, v
			return
		}
	}
	s.t.Fatalf("page %d reads neither as %+v nor as %+v after recovery: %s", p, pg.want, pg.maybe, s.where(p))
}
