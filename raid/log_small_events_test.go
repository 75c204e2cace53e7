package raid

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// smallEvent is one event: what happens, and to which page, batch, row, or member or
// members, counted through all groups.
type smallEvent struct {
	what string
	on   uint32
}

func (e smallEvent) String() string { return fmt.Sprintf("%s %d", e.what, e.on) }

// The kinds of events, by the letter that switches them on:
//
//	w  whole writes                t  whole trims
//	f  batches that take time      m  moves
//	e  erasures and views one by one; without it they are done all at once
//	c  members away and back       z  a member's memory turns to zeros under its server
//	o  a slot turns back to what it held one write ago
//	l  members lost and replaced   k  takeovers
//	q  members fall silent between their headers and the notes
//	d  a page is damaged, and its header is not
//	p  members fall silent when rows are proved, and when notes are read again
//	b  memory is lost or turns back before the log begins, too
//
// Crashes, recoveries and filling, before the log begins and later, are always there.
const smallKinds = "wtfmeczolk"

const smallAll = smallKinds + "qd" // what is walked at random

func (w *smallWorld) walks(kind string) bool { return strings.Contains(w.x.events, kind) }

// out is the mask of members that are away, gone, or do not have what they said.
func (w *smallWorld) out() uint32 { return w.away | w.wrong() }

// wrong is the mask of members that are gone, or do not have what they said.
func (w *smallWorld) wrong() (mask uint32) {
	for k := range w.m {
		if m := &w.m[k]; m.lost || m.empty || m.lied|m.shown != 0 {
			mask |= 1 << k
		}
	}
	return mask
}

// noted is the mask of members that the metadata service has noted.
func (w *smallWorld) noted() (mask uint32) {
	for k := range w.m {
		if w.m[k].filling {
			mask |= 1 << k
		}
	}
	return mask
}

// bearable reports whether no more than M members of each group are in mask. That
// somebody lies nobody knows, so those count too whom the metadata service has noted,
// since no recovery believes them: they are out for as long as that. Of a single slot
// that turned back to empty nothing shows at all: while there is one, who was out
// counts until it has everything.
func (w *smallWorld) bearable(mask uint32) bool {
	noted, lying := w.noted(), uint32(0)
	for k := range w.m {
		if w.m[k].lied|w.m[k].shown != 0 {
			lying |= 1 << k
		}
	}
	for g := range GroupID(w.x.cfg.Groups) {
		if w.walks("o") {
			noted |= w.dirty
		}
		if w.of(g, lying) != 0 && bits.OnesCount32(w.of(g, mask|noted)) > w.x.cfg.Geometry.M {
			return false
		}
		if bits.OnesCount32(w.of(g, mask)) > w.x.cfg.Geometry.M {
			return false
		}
	}
	return true
}

// next calls f for each event that may come next. Some of them turn out to do nothing.
func (w *smallWorld) next(f func(smallEvent)) {
	out := w.out()
	if cl := w.old; cl != nil && cl.up(w) != 0 {
		for p := range uint32(smallPages) {
			f(smallEvent{"owrite", p})
			f(smallEvent{"obegin", p})
		}
		if cl.log.g.K > 1 {
			f(smallEvent{"obeginboth", 0})
		}
		for i := range cl.ops {
			f(smallEvent{"ofinish", uint32(i)})
		}
		f(smallEvent{"otidy", 0})
	}
	if w.cur == nil {
		w.reaches(func(s uint32) { f(smallEvent{"open", s}) })
		return
	}
	w.nextWork(f)
	up := w.cur.up(w)
	for k := range uint32(len(w.m)) {
		m, bit := &w.m[k], uint32(1)<<k
		if w.away&bit != 0 || w.cur.unread&^up&bit != 0 && !m.lost {
			f(smallEvent{"back", k})
		}
		if w.walks("c") && up&bit != 0 && w.bearable(out|bit) {
			f(smallEvent{"cut", k})
		}
		if w.walks("l") && m.lost {
			f(smallEvent{"replace", k})
		}
		if w.walks("l") && !m.lost && w.bearable(out|bit) {
			f(smallEvent{"lose", k})
		}
		if up&bit != 0 && w.cur.log.opened {
			f(smallEvent{"restore", k})
			if m.lied != 0 {
				f(smallEvent{"scrub", k})
			}
		}
		if up&bit != 0 && !w.cur.log.opened {
			f(smallEvent{"fill", k})
		}
		if !w.bearable(out|bit) || m.lost || !w.cur.log.opened && !w.walks("b") {
			continue
		}
		if !w.bearable(out|bit|w.noted()) || w.walks("o") && !w.bearable(bit|w.dirty) {
			continue // to lie would be a fault too many
		}
		if w.walks("z") {
			f(smallEvent{"zero", k})
		}
		for i := uint32(viewRows); w.walks("o") && i < w.x.cfg.Rows; i++ {
			f(smallEvent{"turn", k*smallRows + i})
		}
		for i := uint32(viewRows); w.walks("d") && i < w.x.cfg.Rows; i++ {
			if now := m.slots[i].now; now != nil && now.h.Holds() && !now.bad {
				f(smallEvent{"damage", k*smallRows + i})
			}
		}
	}
	f(smallEvent{"crash", 0})
	if w.walks("k") {
		w.reaches(func(s uint32) { f(smallEvent{"takeover", s}) })
	}
}

// nextWork gives what the client may do by itself.
func (w *smallWorld) nextWork(f func(smallEvent)) {
	l := w.cur.log
	pages := uint32(1) // the second page is like the first one, until that was written
	if w.ver > 0 {
		pages = smallPages
	}
	for p := range pages {
		if !l.opened {
			break
		}
		if w.walks("w") {
			f(smallEvent{"write", p})
		}
		if w.walks("t") {
			f(smallEvent{"trim", p})
		}
		if w.walks("f") {
			f(smallEvent{"begin", p})
		}
		if w.walks("f") && w.walks("t") {
			f(smallEvent{"begintrim", p})
		}
	}
	if l.opened && w.walks("w") && l.g.K > 1 {
		f(smallEvent{"writeboth", 0})
	}
	if l.opened && w.walks("f") && l.g.K > 1 {
		f(smallEvent{"beginboth", 0})
	}
	for i := range w.cur.ops {
		f(smallEvent{"finish", uint32(i)})
	}
	for row := range uint32(len(l.live)) {
		if l.live[row] > 0 && l.opened && w.walks("m") {
			f(smallEvent{"move", row})
			if w.walks("f") {
				f(smallEvent{"beginmove", row})
			}
		}
	}
	if w.walks("e") {
		f(smallEvent{"erase", 0})
		f(smallEvent{"view", 0})
		f(smallEvent{"note", 0})
		if w.cur.era != nil || w.cur.view != nil {
			f(smallEvent{"done", 0})
		}
		if !l.opened {
			f(smallEvent{"beginsettle", 0})
			f(smallEvent{"spare", 0})
		}
	}
	f(smallEvent{"tidy", 0})
	if !l.opened {
		f(smallEvent{"settle", 0})
	}
}

// reaches gives the sets of members that the next client may reach.
func (w *smallWorld) reaches(f func(uint32)) {
	wrong := w.wrong()
	for s := range w.all() + 1 {
		gone := uint32(0)
		for k := range w.m {
			if w.m[k].lost {
				gone |= 1 << k
			}
		}
		if s&gone == 0 && w.bearable(wrong|w.all()&^s) && (w.walks("c") || s == w.all()&^gone) {
			f(s)
		}
	}
}

// apply has e happen. It reports false when e does nothing.
func (w *smallWorld) apply(e smallEvent) bool {
	if !w.happen(e) {
		return false
	}
	w.judge()
	return true
}

func (w *smallWorld) happen(e smallEvent) bool {
	p, k, cl := PageNo(e.on), int(e.on), w.cur
	switch e.what {
	case "write":
		return w.write(cl, p) && w.end(cl)
	case "writeboth":
		return w.write(cl, 0, 1) && w.end(cl)
	case "trim":
		return w.trim(cl, p) && w.end(cl)
	case "begin":
		return w.write(cl, p)
	case "beginboth":
		return w.write(cl, 0, 1)
	case "begintrim":
		return w.trim(cl, p)
	case "finish":
		w.finish(cl, k)
		return true
	case "move", "beginmove":
		g, i := GroupID(e.on/w.x.cfg.Rows), Index(e.on%w.x.cfg.Rows)
		return w.move(cl, cl.log.rowSlots(g, i)) && (e.what == "beginmove" || w.end(cl))
	case "erase":
		return w.startErasure(cl)
	case "view":
		return w.startView(cl)
	case "done":
		if cl.era != nil {
			w.finishErasure(cl)
		} else {
			w.finishView(cl)
		}
		return true
	case "note":
		return w.note()
	case "beginsettle":
		return w.move(cl, w.unsure(cl))
	case "spare":
		unsure := cl.log.unsure
		cl.log.SpareUnsure() // package client: when nothing got on for long
		return cl.log.unsure != unsure
	case "tidy":
		return w.tidy(cl) && w.able()
	case "settle":
		w.settle(cl)
		return true
	case "open", "crash", "takeover":
		return w.another(e)
	case "owrite":
		return w.write(w.old, p) && w.end(w.old)
	case "obegin":
		return w.write(w.old, p)
	case "obeginboth":
		return w.write(w.old, 0, 1)
	case "ofinish":
		w.finish(w.old, k)
		return true
	case "otidy":
		return w.tidy(w.old)
	}
	return w.happenTo(e)
}

// end ends the batch that was begun last.
func (w *smallWorld) end(cl *smallClient) bool {
	w.finish(cl, len(cl.ops)-1)
	return true
}

// able fails when nothing can be written although it should be possible, when no batch
// has to end before.
func (w *smallWorld) able() bool {
	if !w.over && len(w.cur.ops) == 0 && w.cur.log.opened && !w.cur.log.Writable() {
		w.fail("no group can be written")
	}
	return true
}

// another ends the client, starts one, or both.
func (w *smallWorld) another(e smallEvent) bool {
	if w.cur != nil {
		for _, op := range w.cur.ops {
			w.forget(op)
		}
		if e.what == "takeover" {
			w.old, w.before = w.cur, w.ver
			for p := range w.pages {
				w.pages[p].since = false
			}
		}
		w.cur = nil
	}
	if e.what != "crash" {
		w.open(e.on)
	}
	return true
}

// happenTo is happen for what happens to a member.
func (w *smallWorld) happenTo(e smallEvent) bool {
	k, i := int(e.on), 0
	if e.what == "turn" || e.what == "damage" {
		k, i = k/smallRows, k%smallRows
	}
	m, bit := &w.m[k], uint32(1)<<k
	g, c, l := GroupID(k/w.width()), Col(k%w.width()), w.cur.log
	switch e.what {
	case "cut":
		w.endSession(w.cur, k)
		w.away |= bit
	case "back":
		w.fence(k)
		w.look(k)
		w.away &^= bit
		if w.cur.unread&bit != 0 {
			w.compare(k)
		}
		l.SetUp(g, c, true)
	case "lose":
		w.fence(k)
		if w.cur.up(w)&bit != 0 {
			w.endSession(w.cur, k)
		}
		*m = smallMember{lost: true, empty: true}
		w.away &^= bit
		l.SetLost(g, c)
	case "replace":
		for _, op := range w.cur.ops {
			op.failed = op.failed || op.p.Group == g && op.p.Members&(1<<c) != 0
		}
		*m = w.made(k)
		m.empty, m.filling = true, true
		w.cur.unread &^= bit
		l.Replace(g, c)
		l.SetNoted(g, c, true, false)
		l.SetUp(g, c, true)
	case "fill":
		return w.fill(k)
	case "restore":
		return w.restore(k)
	case "scrub":
		return w.scrub(k)
	case "zero":
		w.zero(k)
	case "turn":
		s := &m.slots[i]
		if s.now == s.old {
			return false
		}
		if s.now != nil && s.now.h.Kind == KindErased && s.old != nil && s.old.h.Holds() {
			m.shown |= 1 << i
		}
		s.now = s.old
		m.lied |= 1 << i
		m.hollow |= 1 << i
	case "damage":
		bad := *m.slots[i].now
		bad.bad = true
		m.slots[i].now = &bad
		m.lied |= 1 << i
		m.hollow |= 1 << i
	default:
		panic("small: no such event: " + e.what)
	}
	return true
}

// zero has the memory of member k turn to zeros under its server.
func (w *smallWorld) zero(k int) {
	g, c, m, l := GroupID(k/w.width()), Col(k%w.width()), &w.m[k], w.cur.log
	for i := range w.x.cfg.Rows {
		m.shown &^= 1 << i
		if s := &m.slots[i]; s.now != nil {
			if l.live[l.row(g, Index(i))] > 0 && l.Holders(g, Index(i))&(1<<c) != 0 || l.InView(g, c) && Index(i) == l.groups[g].view.slot {
				m.lied |= 1 << i
			}
			s.now = nil
			m.hollow |= 1 << i
		}
	}
	for _, op := range w.cur.ops {
		if op.p.Group == g && op.acked&(1<<c) != 0 {
			m.lied |= 1 << op.p.Index[0]
		}
	}
}

// scrub compares what member k has of rows in use with what it should have.
func (w *smallWorld) scrub(k int) (some bool) {
	g, c, l := GroupID(k/w.width()), Col(k%w.width()), w.cur.log
	for i := Index(viewRows); i < Index(w.x.cfg.Rows); i++ {
		var h Header
		now := w.m[k].slots[i].now
		if now != nil {
			h = now.h
		}
		if !l.Expects(g, i, c, h, true) || now != nil && now.bad && l.isOf(h, g, i) {
			l.SetMissed(g, i, c)
			some = true
		}
	}
	return some
}

// unsure is what has to be moved before the log begins, as much as fits a row.
func (w *smallWorld) unsure(cl *smallClient) []Slot {
	s := cl.log.UnsureVictims(nil)
	return s[:min(len(s), cl.log.g.K)]
}

// answered judges a write that was answered.
func (w *smallWorld) answered(cl *smallClient, op *smallOp) {
	for p, v := range op.vers {
		pg := &w.pages[p]
		switch {
		case v == 0 || op.move:
		case cl == w.old && w.cur != nil && w.cur.log.opened:
			if got, ok := w.read(w.cur, PageNo(p)); (!ok || got != v) && (op.late || !pg.since) {
				w.fail("a client that was replaced answers version %d of page %d, and its successor reads %d", v, p, got)
			}
		case cl == w.old && !op.late && pg.since:
			// its successor took it in before, and has written the page since
		default:
			later := pg.maybe[:0:0]
			for _, o := range pg.maybe {
				if cl == w.old && o > v {
					later = append(later, o)
				}
			}
			pg.want, pg.maybe, pg.since = v, later, true
		}
	}
}

// judge looks at the world after an event: a log that is settled begins, and all
// pages read as they must.
func (w *smallWorld) judge() {
	w.staleDirty()
	if w.cur == nil {
		return
	}
	l, fresh := w.cur.log, false
	if void, unsure, views := l.Unsettled(); !l.opened && void+unsure == 0 && views == 0 {
		l.Begin()
		fresh = true
		w.staleDirty()
	}
	if !l.opened {
		return
	}
	whole := true
	for p := range w.pages {
		pg := &w.pages[p]
		got, ok := w.read(w.cur, PageNo(p))
		switch {
		case !ok && !w.over:
			w.fail("EIO for page %d, although no more than M members were out", p)
		case !ok:
			whole = false
			continue
		case got != pg.want && !slices.Contains(pg.maybe, got):
			w.fail("page %d reads as version %d, not %d or one of %v", p, got, pg.want, pg.maybe)
		}
		pg.since = pg.since || got > w.before // what was not answered too
		pg.want = got
		if fresh || l.Sure() {
			pg.maybe = nil
		}
	}
	if whole && w.dirty == 0 {
		w.over = false
	}
}

// without reports whether a batch is on its way that member c does not get.
func (c *smallClient) without(g GroupID, m Col) bool {
	return slices.ContainsFunc(c.ops, func(op *smallOp) bool { return op.p.Group == g && op.p.Members&(1<<m) == 0 })
}

// staleDirty keeps count of the members that were out and are not whole since.
func (w *smallWorld) staleDirty() {
	for k := range w.m {
		m, g, c := &w.m[k], GroupID(k/w.width()), Col(k%w.width())
		for i := uint32(viewRows); m.lied != 0 && i < w.x.cfg.Rows && w.cur != nil; i++ {
			if l := w.cur.log; l.opened && l.live[l.row(g, Index(i))] == 0 && len(w.cur.ops) == 0 {
				m.lied &^= 1 << i // what it lost is dead
			}
		}
		if w.cur == nil || !w.cur.log.opened {
			continue
		}
		l := w.cur.log
		if up := w.cur.up(w)&(1<<k) != 0; up && !m.lost && !m.filling && m.lied|m.hollow == 0 && l.InView(g, c) && l.Missing(g, c) == 0 && !l.Limbo() && l.groups[g].ndoomed+l.groups[g].erasing == 0 && !w.cur.without(g, c) {
			m.empty = false
			w.dirty &^= 1 << k
		}
	}
	w.dirty |= w.out()
	w.dirty |= w.noted()
	for k := range w.m {
		g, c := GroupID(k/w.width()), Col(k%w.width())
		if w.m[k].hollow != 0 || w.cur != nil && w.cur.log.Missing(g, c) > 0 {
			w.dirty |= 1 << k
		}
	}
	w.over = w.over || !w.bearable(w.dirty)
}
