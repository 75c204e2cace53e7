package raid

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestLogProperty drives a Log through page-outs of all sizes, fills, trims,
// cleaning, failed batches, members that go, return, are lost and are moved, and
// clients that crash and recover. All the time every page must read, through the members that are
// left, as it was last answered, and Check must hold.
func TestLogProperty(t *testing.T) {
	geometries := []Geometry{{1, 0}, {1, 1}, {1, 2}, {2, 1}, {3, 2}, {4, 2}, {5, 3}}
	rapid.Check(t, func(t *rapid.T) {
		s := newSim(t, rapid.SampledFrom(geometries).Draw(t, "geometry"))
		step := func(f func(*sim)) func(*rapid.T) {
			return func(t *rapid.T) {
				s.t = t
				f(s)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"write":   step((*sim).stepWrite),
			"write2":  step((*sim).stepWrite), // twice as likely
			"write3":  step((*sim).stepWrite),
			"part":    step((*sim).stepPart),
			"finish":  step((*sim).stepFinish),
			"quiet":   step((*sim).stepQuiet),
			"clean":   step(func(s *sim) { s.stepMove(s.log.Victims(nil)) }),
			"heal":    step((*sim).stepHeal),
			"note":    step((*sim).stepNote),
			"view":    step((*sim).stepView),
			"viewed":  step((*sim).stepViewed),
			"notes":   step((*sim).stepMoveNotes),
			"read":    step((*sim).stepRead),
			"ended":   step((*sim).stepReadEnd),
			"down":    step((*sim).stepDown),
			"up":      step((*sim).stepUp),
			"up2":     step((*sim).stepUp),
			"damage":  step((*sim).stepDamage),
			"lose":    step((*sim).stepLose),
			"crash":   step((*sim).stepCrash),
			"crashes": step((*sim).stepCrashes),
			"replace": step((*sim).stepReplace),
			"restore": step((*sim).stepRestore),
			"erase":   step((*sim).stepErase),
			"erased":  step((*sim).stepErased),

			"add pending":  step((*sim).stepAddPending),
			"pending up":   step((*sim).stepPendingUp),
			"pending down": step((*sim).stepPendingDown),
			"pending lost": step((*sim).stepPendingLost),
			"fill":         step((*sim).stepFill),
			"fill2":        step((*sim).stepFill),
			"vouch":        step((*sim).stepVouch),
			"promote":      step((*sim).stepPromote),
			"cancel":       step((*sim).stepCancel),
			"":             step((*sim).check),
		})
		s.t = t
		for p := range s.pages {
			s.verify(PageNo(p))
		}
	})
}

// stepWrite starts a batch of page-outs, fills and trims.
func (s *sim) stepWrite() {
	op := &simOp{}
	taken := make(map[PageNo]bool)
	free := func(p PageNo) bool { return uint64(p) < s.cfg.Pages && !s.pages[p].busy && !taken[p] }

	var records []simRecord
	for range rapid.IntRange(-2, 3).Draw(s.t, "fills") {
		start := PageNo(s.rnd.Uint64N(s.cfg.Pages))
		r := simRecord{NoteRecord: NoteRecord{Start: start, Fill: byte(s.rnd.Uint32N(3))}}
		for limit := s.rnd.Uint32N(12); r.Count <= limit && free(start); start++ {
			taken[start] = true
			r.Count++
		}
		if r.Count > 0 {
			records = append(records, r)
		}
	}
	if len(records) > 0 && !s.addNote(op, records) {
		s.t.Fatal("no room for a note")
	}
	most := s.log.MaxPages() - len(op.items)
	if !rapid.Bool().Draw(s.t, "large") {
		most = min(most, 3*s.cfg.Geometry.K)
	}
	n := rapid.IntRange(0, most).Draw(s.t, "pages")
	for p := PageNo(s.rnd.Uint64N(s.cfg.Pages)); n > 0; n-- {
		if s.rnd.Uint32N(4) == 0 {
			p = PageNo(s.rnd.Uint64N(s.cfg.Pages))
		}
		if p++; free(p) {
			taken[p] = true
			s.version++
			v := value{stored: true, version: s.version}
			op.add(Item{Kind: ItemPage, Page: p}, v, s.content(p, v))
		}
	}
	if len(op.items) == 0 {
		s.t.Skip("nothing to write")
	}
	if !s.launch(op) {
		s.t.Skip("no rows")
	}
	if rapid.Bool().Draw(s.t, "at once") {
		s.finish(op)
	}
}

func (s *sim) drawOp() *simOp {
	if len(s.ops) == 0 {
		s.t.Skip("nothing in flight")
	}
	return rapid.SampledFrom(s.ops).Draw(s.t, "op")
}

// stepPart lands a part of a batch on one member.
func (s *sim) stepPart() {
	op := s.drawOp()
	c := Col(rapid.IntRange(0, s.cfg.Geometry.Members()-1).Draw(s.t, "member"))
	if op.todo&(1<<c) == 0 || !s.members[op.p.Group][c].up {
		s.t.Skip("has it, or is down")
	}
	s.land(op, c, rapid.IntRange(0, op.p.Rows).Draw(s.t, "rows"))
}

func (s *sim) stepFinish() { s.finish(s.drawOp()) }

// stepQuiet lets everything end that can, so that dead rows become free.
func (s *sim) stepQuiet() {
	for _, op := range slices.Clone(s.ops) {
		s.finish(op)
	}
	for len(s.reads) > 0 {
		s.stepReadEnd()
	}
	s.advance()
	s.advance()
	for _, e := range slices.Clone(s.erasures) {
		s.finishErasure(e)
	}
	for range 2 {
		for _, v := range slices.Clone(s.views) {
			s.finishView(v)
		}
		for s.startView() {
			s.finishView(s.views[len(s.views)-1])
		}
		for s.startErasure() {
			s.finishErasure(s.erasures[len(s.erasures)-1])
		}
	}
}

// finish completes a batch, or abandons it if a member failed and nothing can
// land any more. Otherwise it stays in flight.
func (s *sim) finish(op *simOp) {
	for c := range Col(s.cfg.Geometry.Members()) {
		m := op.to[c]
		if op.todo&(1<<c) == 0 {
			continue
		}
		switch {
		case m.lost:
			op.todo &^= 1 << c // its session is over for good
		case !m.up:
			return // of unknown outcome until it returns (I10)
		case !op.failed || s.rnd.Uint32N(2) == 0:
			s.land(op, c, op.p.Rows)
		default:
			op.todo &^= 1 << c // cancelled
		}
	}
	wrote := s.finishSecond(op)
	s.ops = slices.DeleteFunc(s.ops, func(o *simOp) bool { return o == op })
	if !op.failed && s.log.MayCommit(&op.p) {
		s.commit(op, wrote)
		return
	}
	s.abandon(op)
	if !op.move && !op.noted && rapid.Bool().Draw(s.t, "place again") {
		n := op.p.Pages
		again := &simOp{items: op.items[:n], values: op.values[:n], pages: op.pages[:n]}
		if s.launch(again) {
			s.finish(again)
		}
	}
}

// stepMove is the cleaner: it moves what lives in slots to new rows.
func (s *sim) stepMove(slots []Slot) {
	op := s.move(slots)
	if op == nil {
		s.t.Skip("nothing to move, or no rows")
	}
	if rapid.Bool().Draw(s.t, "at once") {
		s.finish(op)
	}
}

// move starts to move what lives in slots; nil: nothing does, or there are no rows.
func (s *sim) move(slots []Slot) *simOp {
	op := &simOp{move: true}
	var records []simRecord
	for _, slot := range slots {
		what, ok := s.log.Content(slot)
		if !ok {
			s.t.Fatalf("victim %d is dead", slot)
		}
		if what.Kind == KindPage && s.pages[what.Page].busy {
			continue // a page-out with a lower Seq may be in flight
		}
		at := s.log.Place(slot)
		page, ok := s.readSlot(at, what.Kind, what.Page)
		if !ok {
			if have := s.log.Survivors(at.Group, at.Index); s.lives == 1 && s.log.CanDecode(have, s.log.FilledCols(at.Group, at.Index)) {
				s.t.Fatalf("%+v cannot be read, although members %#b have it", at, have)
			}
			continue
		}
		if what.Kind == KindPage {
			op.add(Item{Kind: ItemMove, Page: what.Page, From: slot}, value{}, page)
			continue
		}
		notes, err := ParseNotes(page)
		if err != nil {
			s.t.Fatal(err)
		}
		for i := range notes.Len() {
			r := notes.At(i)
			for start, left := r.Start, uint64(r.Count); ; {
				at, n := s.log.NoteRun(what.Note, r.Fill, start, left)
				if n == 0 || len(records) == MaxNotes {
					break
				}
				records = append(records, simRecord{NoteRecord{Start: at, Count: uint32(n), Fill: r.Fill, Seq: r.Seq}, slot})
				left -= uint64(at-start) + n
				start = at + PageNo(n)
			}
		}
	}
	if len(records) > 0 {
		if !s.addNote(op, records) {
			s.t.Fatal("no room for a note")
		}
		n := len(op.items) - 1 // first, so that it is placed whatever else is not
		op.items[0], op.items[n] = op.items[n], op.items[0]
		op.pages[0], op.pages[n] = op.pages[n], op.pages[0]
		op.values[0], op.values[n] = op.values[n], op.values[0]
	}
	if len(op.items) == 0 || !s.launch(op) {
		return nil
	}
	return op
}

// stepMoveNotes moves note pages, as the cleaner does when their rows are
// victims.
func (s *sim) stepMoveNotes() {
	var slots []Slot
	for i := range s.log.notes {
		if n := &s.log.notes[i]; n.live > 0 && !n.open {
			slots = append(slots, n.slot)
		}
	}
	if len(slots) == 0 {
		s.t.Skip("no notes")
	}
	n := rapid.IntRange(1, min(3, len(slots))).Draw(s.t, "notes")
	s.rnd.Shuffle(len(slots), func(i, j int) { slots[i], slots[j] = slots[j], slots[i] })
	s.stepMove(slots[:n])
}

func (s *sim) stepHeal() {
	if !s.log.Healable() {
		s.t.Skip("nothing to heal")
	}
	s.stepMove(s.log.HealVictims(nil))
}

// stepRead starts a page-in that ends some time later.
func (s *sim) stepRead() {
	p := PageNo(rapid.Uint64Range(0, s.cfg.Pages-1).Draw(s.t, "page"))
	e := s.log.Lookup(p)
	if e.Kind != Stored {
		s.t.Skip("not stored")
	}
	at := s.log.Place(e.Slot)
	if s.members[at.Group][at.Col].lost || s.holders(at.Group, at.Index, false)&(1<<at.Col) == 0 {
		s.t.Skip("its member does not have it")
	}
	s.reads = append(s.reads, simRead{at, s.members[at.Group][at.Col].slots[at.Index].header, s.advances})
}

// stepReadEnd ends the oldest page-in: its slot must not have been reused
// (I3), however long ago its page was overwritten.
func (s *sim) stepReadEnd() {
	if len(s.reads) == 0 {
		s.advance()
		return
	}
	r := s.reads[0]
	s.reads = s.reads[1:]
	m := s.members[r.place.Group][r.place.Col]
	if !m.lost && !bytes.Equal(m.slots[r.place.Index].header, r.header) {
		s.t.Fatalf("%+v was written anew while a read was aimed at it", r.place)
	}
	s.advance()
}

// advance ends the read epoch if all reads and moves of the one before are
// over.
func (s *sim) advance() {
	for _, r := range s.reads {
		if r.adv < s.advances {
			return
		}
	}
	for _, op := range s.ops {
		if op.move && op.adv < s.advances {
			return
		}
	}
	s.log.Advance()
	s.advances++
}

func (s *sim) drawMember() (GroupID, Col, *simMember) {
	g := rapid.IntRange(0, len(s.members)-1).Draw(s.t, "group")
	c := rapid.IntRange(0, len(s.members[g])-1).Draw(s.t, "member")
	return GroupID(g), Col(c), s.members[g][c]
}

// stepDown cuts a member off, in the middle of whatever is being sent to it.
func (s *sim) stepDown() {
	g, c, m := s.drawMember()
	if !m.up || rapid.Bool().Draw(s.t, "spare it") {
		s.t.Skip("is down, or is spared")
	}
	s.down(g, c, m)
}

func (s *sim) down(g GroupID, c Col, m *simMember) {
	m.up = false
	s.log.SetUp(g, c, false)
	for _, op := range s.ops {
		if op.p.Group == g && op.todo&(1<<c) != 0 {
			op.failed = true
		}
		op.lose(m, c)
	}
	for _, e := range s.erasures {
		if e.Group == g && e.todo&(1<<c) != 0 && e.to[c] == m {
			e.failed |= 1 << c
		}
	}
	for _, v := range s.views {
		if v.Group == g && v.todo&(1<<c) != 0 && v.to[c] == m {
			v.failed |= 1 << c
		}
	}
}

// stepUp brings a member back. What was on its way lands before the new
// session, or never.
func (s *sim) stepUp() {
	type who struct {
		g GroupID
		c Col
	}
	var down []who
	for g := range s.members {
		for c, m := range s.members[g] {
			if !m.up && !m.lost {
				down = append(down, who{GroupID(g), Col(c)})
			}
		}
	}
	if len(down) == 0 {
		s.t.Skip("all are up")
	}
	w := rapid.SampledFrom(down).Draw(s.t, "member")
	g, c := w.g, w.c
	m := s.members[g][c]
	for _, list := range [][]*simOp{s.ghosts, s.ops} {
		for _, op := range list {
			if op.p.Group == g {
				s.arrive(op, c, m)
			}
		}
	}
	for _, e := range s.erasures {
		if e.Group == g && e.todo&(1<<c) != 0 && e.to[c] == m {
			s.eraseAt(e, c, int(s.rnd.Uint32N(uint32(e.Rows+1))))
			e.todo &^= 1 << c
		}
	}
	for _, v := range s.views {
		if v.Group == g && v.todo&(1<<c) != 0 && v.to[c] == m {
			if s.rnd.Uint32N(2) == 0 {
				s.putView(v, m)
			}
			v.todo &^= 1 << c
		}
	}
	s.comeUp(g, c, m)
}

// comeUp takes a member into use. One that no recovery has read is compared
// before.
func (s *sim) comeUp(g GroupID, c Col, m *simMember) {
	if m.unsure {
		s.compare(g, c, m)
	}
	m.up = true
	s.log.SetUp(g, c, true)
}

// arrive ends the session in which op was sent to m for column c: what was on
// its way has landed by now, or never will.
func (s *sim) arrive(op *simOp, c Col, m *simMember) {
	rows := int(s.rnd.Uint32N(uint32(op.p.Rows + 1)))
	if op.todo&(1<<c) != 0 && op.to[c] == m {
		s.land(op, c, rows)
		op.todo &^= 1 << c
	}
	if op.todo2&(1<<c) != 0 && op.second[c] == m {
		op.landOn(m, c, rows)
		op.todo2 &^= 1 << c
		op.lag |= 1 << c
	}
}

// stepLose takes a member for good, seldom more than M of a group.
func (s *sim) stepLose() {
	g, c, m := s.drawMember()
	lost := 0
	for _, o := range s.members[g] {
		if o.lost {
			lost++
		}
	}
	chances := 2
	if lost >= s.cfg.Geometry.M {
		chances = 10
	}
	if m.lost || rapid.IntRange(0, chances).Draw(s.t, "really") > 0 {
		s.t.Skip("not this one")
	}
	if m.up {
		s.down(g, c, m)
	}
	m.lost = true
	m.slots = make([]simSlot, s.cfg.Rows)
	s.log.SetLost(g, c)
}

// stepDamage breaks the header of a slot that is in use, which a scrub finds.
func (s *sim) stepDamage() {
	g, c, m := s.drawMember()
	i := Index(rapid.Uint32Range(viewRows, s.cfg.Rows-1).Draw(s.t, "row"))
	have := s.holders(g, i, true) & s.believed(g, func(m *simMember) bool { return m.up })
	if s.log.live[s.log.row(g, i)] == 0 || have&(1<<c) == 0 || !s.log.CanDecode(have&^(1<<c), s.log.FilledCols(g, i)) {
		s.t.Skip("not in use, or too precious")
	}
	header := bytes.Clone(m.slots[i].header)
	header[s.rnd.IntN(len(header))] ^= 1 << s.rnd.IntN(8)
	m.slots[i].header = header
	s.log.SetMissed(g, i, c)
	s.reads = slices.DeleteFunc(s.reads, func(r simRead) bool {
		return r.place.Group == g && r.place.Index == i && r.place.Col == c
	})
}

// check holds after every step.
func (s *sim) check() {
	reserved := 0
	for _, op := range s.ops {
		reserved += op.p.Rows
	}
	if err := s.log.Check(reserved); err != nil {
		s.t.Fatal(err)
	}
	for range 16 {
		s.verify(PageNo(s.rnd.Uint64N(s.cfg.Pages)))
	}
	lost := uint64(0)
	for g := range GroupID(s.cfg.Groups) {
		for i := range Index(s.cfg.Rows) {
			if s.log.live[s.log.row(g, i)] == 0 {
				continue
			}
			truth := s.holders(g, i, false) | s.unfilled(g, i)
			thinks := s.log.Holders(g, i) | s.unfilled(g, i)
			for c, m := range s.members[g] {
				if bit := uint32(1) << c; !m.unsure && truth&bit != thinks&bit && (!m.more || truth&bit == 0) {
					s.t.Fatalf("row %d of group %d: member %d has it: %v, but the log thinks %v", i, g, c, truth&bit != 0, thinks&bit != 0)
				}
			}
			if !s.log.CanDecode(thinks, s.log.FilledCols(g, i)) {
				lost += uint64(s.log.lostInRow(s.log.row(g, i), thinks))
			}
		}
	}
	s.checkPending()
	if s.log.Sure() {
		for p := range s.pages {
			if !s.pages[p].eio {
				s.pages[p].maybe = nil // what was given up never comes back
			}
		}
	}
	h := s.log.Health()
	if h.LostPages != lost {
		s.t.Fatalf("%d pages are lost, health says %+v", lost, h)
	}
	if walked := healthByRows(s.log); h != walked {
		s.t.Fatalf("health says %+v, the rows %+v", h, walked)
	}
}

// unfilled is the mask of data columns that were not sent in a row: it does
// not matter whether their members have it.
func (s *sim) unfilled(g GroupID, i Index) uint32 {
	return (uint32(1)<<s.cfg.Geometry.K - 1) &^ uint32(s.log.FilledCols(g, i))
}
