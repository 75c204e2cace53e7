package raid

import (
	"slices"
)

// What a client of the small world does, as package client does it.

// busy reports whether a page-out or a trim of page p is on its way.
func (c *smallClient) busy(p PageNo) bool {
	return slices.ContainsFunc(c.ops, func(op *smallOp) bool { return !op.move && op.vers[p] != 0 })
}

// launch places the batch and sends it; false: it cannot be placed.
func (w *smallWorld) launch(cl *smallClient, op *smallOp) bool {
	l := cl.log
	op.p = Placement{}
	if len(op.items) == 0 || len(cl.ops) == smallFlying || !l.Reserve(len(op.items), op.move, &op.p) {
		if op.noted {
			l.FreeNote(op.note)
		}
		return false
	}
	op.items = op.items[:op.p.Pages]
	for len(op.items) < op.p.N {
		op.items = append(op.items, Item{Kind: ItemCopy})
	}
	if op.late = cl == w.old; op.late && (w.cur == nil || !w.cur.log.opened) {
		w.forget(op) // the successor may take it in still
	}
	w.encode(l, op)
	for c, cell := range op.cells {
		if cell != nil && op.p.Members&(1<<c) != 0 {
			s := &w.at(op.p.Group, c).slots[op.p.Index[0]]
			if s.next != nil && s.next.h.Holds() {
				w.fail("row %d is placed anew while something is on its way to member %d", op.p.Index[0], c)
			}
			s.next = cell
		}
	}
	cl.ops = append(cl.ops, op)
	return true
}

func (w *smallWorld) write(cl *smallClient, pages ...PageNo) bool {
	op := &smallOp{}
	for _, p := range pages {
		if cl.busy(p) {
			return false
		}
	}
	for _, p := range pages {
		w.ver++
		op.vers[p] = w.ver
		op.items = append(op.items, Item{Kind: ItemPage, Page: p})
	}
	return w.launch(cl, op)
}

func (w *smallWorld) trim(cl *smallClient, p PageNo) bool {
	if cl.busy(p) {
		return false
	}
	id, ok := cl.log.NewNote(false)
	if !ok {
		return false
	}
	w.ver++
	op := &smallOp{noted: true, note: id, trim: true}
	op.vers[p] = w.ver
	op.recs = []NoteRecord{{Start: p, Count: 1, Fill: w.ver}}
	op.items = []Item{{Kind: ItemNotes, Note: id}}
	return w.launch(cl, op)
}

// move starts to move what lives in slots.
func (w *smallWorld) move(cl *smallClient, slots []Slot) bool {
	op := &smallOp{move: true}
	var pages []Item
	for _, s := range slots {
		what, ok := cl.log.Content(s)
		if !ok {
			continue
		}
		cell, ok := w.slot(cl, s)
		switch {
		case !ok || what.Kind == KindPage && cl.busy(what.Page):
		case what.Kind == KindPage:
			op.vers[what.Page] = cell.vals[cl.log.Place(s).Col]
			pages = append(pages, Item{Kind: ItemMove, Page: what.Page, From: s})
		case !op.noted:
			notes, err := ParseNotes(cell.note)
			if err != nil {
				panic(err)
			}
			for i := range notes.Len() {
				r := notes.At(i)
				if at, n := cl.log.NoteRun(what.Note, r.Fill, r.Start, uint64(r.Count)); n > 0 {
					op.recs = append(op.recs, NoteRecord{Start: at, Count: uint32(n), Fill: r.Fill, Seq: r.Seq})
				}
			}
			op.from = s
			op.noted = len(op.recs) > 0
		}
	}
	if op.noted {
		id, ok := cl.log.NewNote(true)
		if !ok {
			return false
		}
		op.note = id
		op.items = append(op.items, Item{Kind: ItemNotes, Note: id})
	}
	op.items = append(op.items, pages...)
	return w.launch(cl, op)
}

// rowSlots is the slots of row i of group g that live.
func (l *Log) rowSlots(g GroupID, i Index) (slots []Slot) {
	row := l.row(g, i)
	for c := range l.g.K {
		if s := Slot(row)*Slot(l.g.K) + Slot(c); l.live[row] > 0 && l.isLive(s) {
			slots = append(slots, s)
		}
	}
	return slots
}

// finish ends a batch: it is answered if every member that it was sent to has it,
// else given up.
func (w *smallWorld) finish(cl *smallClient, i int) {
	op := cl.ops[i]
	cl.ops = slices.Delete(cl.ops, i, i+1)
	if op.failed || !cl.log.MayCommit(&op.p) {
		cl.log.Abandon(&op.p)
		if op.noted {
			cl.log.FreeNote(op.note)
		}
		if cl == w.cur {
			w.forget(op) // of another one's it was decided
		}
		return
	}
	w.landed(op, op.p.Members&^op.acked)
	cl.log.Commit(&op.p, op.items, op.p.Members)
	for _, r := range op.recs {
		if op.move {
			cl.log.MoveFill(op.from, op.note, r.Start, uint64(r.Count), r.Fill)
		} else {
			cl.log.CommitFill(op.note, r.Start, uint64(r.Count), r.Fill)
		}
	}
	if op.noted {
		cl.log.SealNote(op.note)
	}
	w.answered(cl, op)
	w.advance(cl)
}

// landed puts the batch into the memory of members.
func (w *smallWorld) landed(op *smallOp, members uint32) {
	for c, cell := range op.cells {
		if m := w.at(op.p.Group, c); cell != nil && members&(1<<c) != 0 && !m.lost {
			m.put(op.p.Index[0], cell)
		}
	}
}

// forget ends a batch of which nobody knows whether it will be seen.
func (w *smallWorld) forget(op *smallOp) {
	for p, v := range op.vers {
		if v != 0 && !op.move {
			w.pages[p].add(v)
		}
	}
}

// advance ends read epochs: page-ins take no time here, moves do.
func (w *smallWorld) advance(cl *smallClient) {
	if !slices.ContainsFunc(cl.ops, func(op *smallOp) bool { return op.move }) {
		cl.log.Advance()
		cl.log.Advance()
	}
}

func (w *smallWorld) startErasure(cl *smallClient) bool {
	e := &smallErasure{}
	if cl.era != nil || cl.view != nil || !cl.log.TakeDoomed(&e.Erasure) {
		return false
	}
	w.eachErased(e, e.Members, func(m *smallMember, c int, i Index) {
		if m.slots[i].next == nil {
			m.slots[i].next = w.x.erase(e.Group, c, i, e.Seq)
		}
	})
	cl.era = e
	return true
}

func (w *smallWorld) eachErased(e *smallErasure, members uint32, f func(*smallMember, int, Index)) {
	for c := range w.width() {
		for _, i := range e.Index[:e.Rows] {
			if m := w.at(e.Group, c); members&(1<<c) != 0 && !m.lost {
				f(m, c, i)
			}
		}
	}
}

func (w *smallWorld) finishErasure(cl *smallClient) {
	e := cl.era
	cl.era = nil
	w.eachErased(e, e.Members&^e.failed&^e.acked, w.erase(e))
	cl.log.Erased(&e.Erasure, e.Members&^e.failed, 0)
}

func (w *smallWorld) erase(e *smallErasure) func(*smallMember, int, Index) {
	return func(m *smallMember, c int, i Index) { m.put(i, w.x.erase(e.Group, c, i, e.Seq)) }
}

func (w *smallWorld) startView(cl *smallClient) bool {
	v := &smallView{}
	if cl.era != nil || cl.view != nil || !cl.log.TakeView(&v.View) {
		return false
	}
	h := cl.log.ViewHeader(&v.View)
	for c := range w.width() {
		if m := w.at(v.Group, c); v.To&(1<<c) != 0 && !m.lost {
			b := make([]byte, len(w.x.zeros[c]))
			h.Put(b, make([]RowEntry, RowTable(b)))
			m.slots[v.Index].next = &smallCell{b: b, h: h}
		}
	}
	cl.view = v
	return true
}

func (w *smallWorld) finishView(cl *smallClient) {
	v := cl.view
	cl.view = nil
	done := v.To &^ v.failed
	for c := range w.width() {
		if m := w.at(v.Group, c); (done&^v.acked)&(1<<c) != 0 && !m.lost {
			m.put(v.Index, m.slots[v.Index].next)
		}
	}
	cl.log.Installed(&v.View, done, 0)
}

// endSession ends the session that a client has with member k. Of each thing on its
// way it is chosen whether the client had the answer.
func (w *smallWorld) endSession(cl *smallClient, k int) {
	g, c := GroupID(k/w.width()), k%w.width()
	bit := uint32(1) << c
	for _, op := range cl.ops {
		if op.p.Group != g || (op.p.Members&^op.acked)&bit == 0 {
			continue
		}
		if w.pick.of(2) == 0 {
			op.failed = true
			continue
		}
		w.landed(op, bit)
		op.acked |= bit
	}
	if e := cl.era; e != nil && e.Group == g && (e.Members&^e.failed&^e.acked)&bit != 0 {
		if w.pick.of(2) == 0 {
			e.failed |= bit
		} else {
			w.eachErased(e, bit, w.erase(e))
			e.acked |= bit
		}
	}
	if v := cl.view; v != nil && v.Group == g && (v.To&^v.failed&^v.acked)&bit != 0 {
		if m := w.at(g, c); w.pick.of(2) == 0 || m.slots[v.Index].next == nil {
			v.failed |= bit
		} else {
			m.put(v.Index, m.slots[v.Index].next)
			v.acked |= bit
		}
	}
	cl.log.SetUp(g, Col(c), false)
}

// look is the first thing that a new session with member k finds: what was on its
// way before has landed, was begun, or never will.
func (w *smallWorld) look(k int) {
	m := &w.m[k]
	for i := range m.slots {
		s := &m.slots[i]
		if s.next == nil {
			continue
		}
		n := 3
		if s.next.h.Kind >= KindView {
			n = 2 // no page is received
		}
		switch w.pick.of(n) {
		case 0:
			s.next = nil
		case 1:
			m.put(Index(i), s.next)
		case 2:
			m.put(Index(i), w.x.erase(GroupID(k/w.width()), k%w.width(), Index(i), s.next.h.Seq-1))
		}
	}
}

// fence ends what the replaced client has at member k.
func (w *smallWorld) fence(k int) {
	if w.old != nil && w.old.up(w)&(1<<k) != 0 {
		w.endSession(w.old, k)
	}
}

// compare looks at a member that the recovery did not read, before it is used.
func (w *smallWorld) compare(k int) {
	g, c, m, l := GroupID(k/w.width()), Col(k%w.width()), &w.m[k], w.cur.log
	l.ForgetStale(g, c)
	for i := Index(viewRows); i < Index(w.x.cfg.Rows); i++ {
		var h Header
		if now := m.slots[i].now; now != nil {
			h = now.h
		}
		sound := h.Kind != KindEmpty
		if !l.Expects(g, i, c, h, sound) {
			l.SetMissed(g, i, c)
		}
		if dead, erase := l.Leftover(g, i, c, h, sound, false); erase {
			lied, hollow := m.lied, m.hollow
			m.put(i, w.x.erase(g, int(c), i, dead))
			if l.live[l.row(g, i)] > 0 || !l.opened {
				m.lied, m.hollow = lied, hollow // it lacks the row still; dead is what the next client finds so, too
			}
		}
	}
	w.cur.unread &^= 1 << k
}

// open attaches anew, with the members in reached. It gives up when the recovery
// would refuse.
func (w *smallWorld) open(reached uint32) {
	for k := range w.m {
		if reached&(1<<k) != 0 {
			w.fence(k)
			w.look(k)
		}
	}
	w.away = w.all() &^ reached
	for k := range w.m {
		if w.m[k].lost {
			w.away &^= 1 << k
		}
	}
	w.newClient(reached)
	if why, ok := w.recover(reached); !ok {
		w.cur, w.refused = nil, true
		w.staleDirty()
		if !w.over && w.hushed == 0 {
			w.fail("refuses to open: %s", why)
		}
		return
	}
	w.refused = false
}

func (w *smallWorld) recover(reached uint32) (why string, ok bool) {
	l := w.cur.log
	for g := range GroupID(w.x.cfg.Groups) {
		var views [viewRows][][]byte
		for i := range views {
			views[i] = w.headers(g, Index(i), w.of(g, reached))
		}
		read, filling := uint32(0), uint32(0)
		for c := range w.width() {
			if w.m[int(g)*w.width()+c].filling {
				filling |= 1 << c
			}
		}
		found := l.SetView(g, views, filling)
		believed := l.Witnesses(g).View
		for c := range w.width() {
			k := int(g)*w.width() + c
			if reached&(1<<k) != 0 && !w.m[k].lost {
				read |= 1 << c // as package client: those that are being rebuilt too
			}
			if reached&(1<<k) == 0 || believed&(1<<c) == 0 {
				w.cur.unread |= 1 << k
				l.SetUp(g, Col(c), false)
			}
		}
		if !found || !l.Enough(g, read) {
			return "members or views are too few", false
		}
	}
	r := NewRecovery(l)
	for g := range GroupID(w.x.cfg.Groups) {
		for i := range Index(w.x.cfg.Rows) {
			if err := r.Row(g, i, w.headers(g, i, w.of(g, reached))); err != nil {
				panic(err)
			}
		}
	}
	silent := w.prove(r, reached)
	w.recoverNotes(r, reached)
	state := r.Incomplete()
	r.Finish()
	w.away |= silent
	for k := range w.m {
		if (w.m[k].filling || silent&(1<<k) != 0) && w.cur.unread&(1<<k) == 0 { // it is compared before it is used
			w.cur.unread |= 1 << k
			l.SetUp(GroupID(k/w.width()), Col(k%w.width()), false)
		}
	}
	if state.Loss() {
		return "it would lose something", false
	}
	return "", true
}

// headers reads row i of group g at members.
func (w *smallWorld) headers(g GroupID, i Index, members uint32) [][]byte {
	b := make([][]byte, w.width())
	for c := range b {
		m := w.at(g, c)
		switch {
		case members&(1<<c) == 0 || m.lost:
		case m.slots[i].now == nil:
			b[c] = w.x.zeros[c]
		default:
			b[c] = m.slots[i].now.b
		}
	}
	return b
}

// note has the metadata service note who misses rows.
func (w *smallWorld) note() (some bool) {
	for k := range w.m {
		g, c := GroupID(k/w.width()), Col(k%w.width())
		if w.m[k].claimed {
			w.m[k].filling, some = false, true // Rebuilt comes before Behind
		}
		out := w.cur.log.Unnoted(g)&(1<<c) != 0
		defer func() {
			if out {
				w.m[k].filling, w.m[k].claimed = true, false
				w.cur.log.SetNoted(g, c, true, false)
			} else if w.m[k].claimed {
				w.m[k].claimed = false
				w.cur.log.SetNoted(g, c, false, false)
			}
		}()
		some = some || out
	}
	return some
}

// restore gives member k the rows that it misses, and has it noted that it has them.
func (w *smallWorld) restore(k int) (some bool) {
	g, c, m, l := GroupID(k/w.width()), Col(k%w.width()), &w.m[k], w.cur.log
	rows, _ := l.MissingRows(g, c, 0, make([]MissingRow, 0, smallRows))
	for _, r := range rows {
		have, cell := w.have(l, g, r.Index)
		if !l.CanDecode(have, r.Filled) {
			continue
		}
		m.put(r.Index, cell.row[c])
		l.Restored(g, c, r)
		some = true
	}
	if m.filling && !m.claimed && l.Missing(g, c) == 0 && l.InView(g, c) {
		m.claimed, some = true, true
		switch w.pick.of(3) {
		case 0: // meta has heard it, and said so
			m.filling, m.claimed = false, false
			l.SetNoted(g, c, false, false)
		case 1: // meta has heard it
			m.filling = false
			l.SetNoted(g, c, false, true)
		case 2: // it will, or not
			l.SetNoted(g, c, false, true)
		}
	}
	return some
}

// fill gives member k the rows that the recovery is not sure of.
func (w *smallWorld) fill(k int) (some bool) {
	g, c, l := GroupID(k/w.width()), Col(k%w.width()), w.cur.log
	rows, _ := l.UnsureRows(g, c, 0, make([]MissingRow, 0, smallRows))
	for _, r := range rows {
		have, cell := w.have(l, g, r.Index)
		if !l.CanDecode(have, r.Filled) {
			continue
		}
		w.m[k].put(r.Index, cell.row[c])
		l.Restored(g, c, r)
		some = true
	}
	unsure := l.unsure
	l.Complete()
	return some || l.unsure != unsure
}

// tidy has the eraser do all that it finds to do.
func (w *smallWorld) tidy(cl *smallClient) (some bool) {
	free := cl.log.free
	w.advance(cl) // as package client, when it has begun
	some = cl.log.free != free
	for range 100 {
		switch {
		case cl.era != nil:
			w.finishErasure(cl)
		case cl.view != nil:
			w.finishView(cl)
		case cl == w.cur && w.note():
		case !w.startErasure(cl) && !w.startView(cl):
			return some
		}
		some = true
	}
	return some // it tries again and again: somebody has to come back first
}

// settle does what there is to do after a recovery.
func (w *smallWorld) settle(cl *smallClient) {
	for range 10 {
		w.tidy(cl)
		void, unsure, views := cl.log.Unsettled()
		if void+unsure == 0 && views == 0 {
			return
		}
		if unsure == 0 {
			continue
		}
		if !w.move(cl, w.unsure(cl)) {
			cl.log.SpareUnsure() // no room
			continue
		}
		w.finish(cl, len(cl.ops)-1)
	}
}
