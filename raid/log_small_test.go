package raid

import (
	"fmt"
	"maps"
	"slices"
)

// The small world: a volume of two pages in a group or two of a few rows, whose
// members' memory is a header and the numbers of a few versions for each slot, a
// client, and perhaps one that it replaced. It is small enough that every order of
// events up to some length can be walked (log_small_walk_test.go). Nothing in it is
// random: where an event can end in several ways the walker says which (smallChoice).
//
// What is on its way to a member is not delivered at a moment of its own: nobody sees
// what lies in a slot until its client has the answer or another session reads it. So
// a slot holds what it held and what may be there instead, and which it is is chosen
// when somebody looks.

// smallScope is what all worlds of a walk share.
type smallScope struct {
	cfg    LogConfig
	events string         // letters of the kinds of events that are walked (smallKinds)
	made   [][]*smallCell // [group and row][col] as chunks are made
	zeros  [][]byte
}

const (
	smallPages  = 2
	smallRows   = 8 // the most
	smallNotes  = 8
	smallFlying = 2 // batches of a client at a time
)

func newSmallScope(g Geometry, groups int, rows uint32, events string) *smallScope {
	x := &smallScope{cfg: LogConfig{Geometry: g, Groups: groups, Rows: rows, Pages: smallPages}, events: events}
	for c := range g.Members() {
		b := make([]byte, HeaderBytes(g, Col(c)))
		x.zeros = append(x.zeros, b)
	}
	for at := range groups * int(rows) {
		var row []*smallCell
		for c := range g.Members() {
			row = append(row, x.erase(GroupID(at/int(rows)), c, Index(at%int(rows)), 0))
		}
		x.made = append(x.made, row)
	}
	return x
}

// erase makes an erased slot.
func (x *smallScope) erase(g GroupID, c int, i Index, seq Seq) *smallCell {
	at := Site{Group: g, Index: i}
	b := make([]byte, len(x.zeros[c]))
	PutErased(b, at, seq)
	return &smallCell{b: b, h: Header{Kind: KindErased, Seq: seq, Site: at}}
}

// smallCell is what was put into a slot. It never changes.
type smallCell struct {
	b    []byte
	h    Header
	row  []*smallCell     // of all columns, nil where nothing was sent
	vals [MaxParity]uint8 // version in each data column
	note []byte           // content of the note page in column 0, if any
	bad  bool             // its page is damaged
}

type smallSlot struct {
	now  *smallCell // nil: zeros
	next *smallCell // was sent; may have landed, or have been begun
	old  *smallCell // what was there before now
}

type smallMember struct {
	slots   [smallRows]smallSlot
	lied    uint16 // rows in use of which it lost, or turned back, what it had acknowledged
	hollow  uint16 // likewise of any row, dead ones too
	shown   uint16 // rows of which it shows again what was erased there
	lost    bool   // it is gone for good
	empty   bool   // it was lost and has not got everything again
	claimed bool   // the metadata service was told that it is not, or will be
	filling bool   // noted by the metadata service: no recovery asks it
}

// put makes c the content of slot i.
func (m *smallMember) put(i Index, c *smallCell) {
	s := &m.slots[i]
	if s.now != c {
		s.old = s.now
	}
	s.now, s.next = c, nil
	m.lied &^= 1 << i
	m.hollow &^= 1 << i
	m.shown &^= 1 << i
}

type smallPage struct {
	want  uint8   // version of the last answered write, or of what was read since
	maybe []uint8 // unanswered since, ascending
	since bool    // written, or read as it was, since the old client was replaced
}

func (p *smallPage) add(v uint8) {
	if i, found := slices.BinarySearch(p.maybe, v); !found {
		p.maybe = slices.Insert(slices.Clone(p.maybe), i, v)
	}
}

// smallOp is a batch on its way, of one row.
type smallOp struct {
	p      Placement
	items  []Item
	vers   [smallPages]uint8 // by page; 0: not written
	note   NoteID
	noted  bool
	trim   bool
	from   Slot // move of a note: where it was
	recs   []NoteRecord
	cells  []*smallCell
	move   bool
	failed bool
	acked  uint32
	late   bool // was begun by a client that had been replaced
}

type smallErasure struct {
	Erasure
	failed uint32
	acked  uint32
}

type smallView struct {
	View
	failed uint32
	acked  uint32
}

type smallClient struct {
	log    *Log
	unread uint32 // members that the recovery did not read, of all groups
	ops    []*smallOp
	era    *smallErasure
	view   *smallView
}

func (c *smallClient) clone() *smallClient {
	if c == nil {
		return nil
	}
	n := *c
	n.log = c.log.cloneForTest()
	n.ops = make([]*smallOp, len(c.ops))
	for i, op := range c.ops {
		o := *op
		n.ops[i] = &o
	}
	if c.era != nil {
		e := *c.era
		n.era = &e
	}
	if c.view != nil {
		v := *c.view
		n.view = &v
	}
	return &n
}

// cloneForTest copies a log without pending members.
func (l *Log) cloneForTest() *Log {
	n := *l
	n.fwd, n.rev, n.held = slices.Clone(l.fwd), slices.Clone(l.rev), slices.Clone(l.held)
	n.tag, n.live = slices.Clone(l.tag), slices.Clone(l.live)
	n.notes = slices.Clone(l.notes)
	n.groups, n.sentTo, n.unheard, n.spared = slices.Clone(l.groups), maps.Clone(l.sentTo), maps.Clone(l.unheard), maps.Clone(l.spared)
	for i := range n.groups {
		g := &n.groups[i]
		words := make([]uint64, 0, 18)
		dup := func(b *[]uint64) {
			if *b != nil {
				k := len(words)
				words = append(words, *b...)
				*b = words[k:len(words):len(words)]
			}
		}
		for _, b := range []*[]uint64{&g.free, &g.partial, &g.doomed, &g.void, &g.unsure, &g.torn} {
			dup(b)
		}
		for c := range l.g.Members() {
			dup(&g.missed[c])
			dup(&g.stale[c])
		}
	}
	return &n
}

type smallWorld struct {
	x        *smallScope
	m        []smallMember
	cur, old *smallClient
	pages    [smallPages]smallPage
	ver      uint8
	before   uint8 // the last version when the old client was replaced
	epoch    uint8
	away     uint32 // members that the client does not reach, of all groups
	dirty    uint32 // members that were out and are not whole again since
	over     bool   // more than M of a group were: it may refuse, and answer EIO
	refused  bool   // the last client refused to open
	hushed   uint32 // members that fell silent while it read the notes
	pick     *smallChoice
}

func (w *smallWorld) clone() *smallWorld {
	n := *w
	n.m = slices.Clone(w.m)
	n.cur, n.old = w.cur.clone(), w.old.clone()
	return &n
}

// smallChoice answers how an event ends, and remembers what was asked.
type smallChoice struct {
	script []int
	sizes  []int
}

func (c *smallChoice) of(n int) int {
	i := len(c.sizes)
	c.sizes = append(c.sizes, n)
	if i == len(c.script) {
		c.script = append(c.script, 0)
	}
	if c.script[i] >= n {
		panic(fmt.Sprintf("small: choice %d of %d", c.script[i], n))
	}
	return c.script[i]
}

// next makes c the choices that come after; false: there are none.
func (c *smallChoice) next() bool {
	for i := len(c.sizes) - 1; i >= 0; i-- {
		if c.script[i]+1 < c.sizes[i] {
			c.script = append(c.script[:i], c.script[i]+1)
			c.sizes = c.sizes[:0]
			return true
		}
	}
	return false
}

// smallFault is what the judge found.
type smallFault string

func (w *smallWorld) fail(format string, a ...any) { panic(smallFault(fmt.Sprintf(format, a...))) }

func (w *smallWorld) width() int { return w.x.cfg.Geometry.Members() }

func (w *smallWorld) at(g GroupID, c int) *smallMember { return &w.m[int(g)*w.width()+c] }

// all is the mask of all members of all groups.
func (w *smallWorld) all() uint32 { return 1<<len(w.m) - 1 }

// of is the part of mask that is of group g.
func (w *smallWorld) of(g GroupID, mask uint32) uint32 {
	return mask >> (int(g) * w.width()) & (1<<w.width() - 1)
}

// up is the mask of members that a client has a session with.
func (c *smallClient) up(w *smallWorld) (mask uint32) {
	for g := range c.log.groups {
		mask |= (c.log.groups[g].up &^ c.log.groups[g].lost) << (g * w.width())
	}
	return mask
}

// newSmallWorld is a volume that was just created and attached.
func newSmallWorld(x *smallScope) *smallWorld {
	w := &smallWorld{x: x, m: make([]smallMember, x.cfg.Groups*x.cfg.Geometry.Members()), pick: &smallChoice{}}
	for k := range w.m {
		w.m[k] = w.made(k)
	}
	w.newClient(w.all())
	w.settle(w.cur)
	w.judge()
	if w.cur == nil || !w.cur.log.opened {
		panic("small: a new volume does not begin")
	}
	return w
}

// made is the memory of member k as its chunk is made.
func (w *smallWorld) made(k int) (m smallMember) {
	for i := range w.x.cfg.Rows {
		cell := w.x.made[k/w.width()*int(w.x.cfg.Rows)+int(i)][k%w.width()]
		m.slots[i] = smallSlot{now: cell, old: cell}
	}
	return m
}

// newClient is what an attach does before it recovers: there are sessions with the
// members in reached.
func (w *smallWorld) newClient(reached uint32) {
	l, err := NewLog(w.x.cfg)
	if err != nil {
		panic(err)
	}
	l.notes = l.notes[:smallNotes]
	l.notes[smallNotes-1].next = 0
	l.noteMax = smallNotes
	l.GuardThin()
	w.epoch++
	w.cur = &smallClient{log: l}
	for k := range w.m {
		g, c, m := GroupID(k/w.width()), Col(k%w.width()), &w.m[k]
		l.SetUp(g, c, reached&(1<<k) != 0)
		m.claimed = false
		l.SetNoted(g, c, m.lost || m.filling, false)
		if m.lost {
			l.SetLost(g, c)
		}
	}
	l.StartSeq(FirstSeq(Epoch(w.epoch)))
}

// encode makes the slots of the batch.
func (w *smallWorld) encode(l *Log, op *smallOp) {
	g := w.x.cfg.Geometry
	op.cells = make([]*smallCell, g.Members())
	head := Header{Members: op.p.Named, Seq: op.p.Seq, Settled: op.p.Settled, Filled: op.p.FilledCols(0), Site: l.Site(op.p.Group, op.p.Index[0])}
	base := smallCell{row: op.cells}
	if op.noted {
		base.note = make([]byte, PageSize)
		notes := NewNotes(base.note)
		for i := range op.recs {
			if !op.move {
				op.recs[i].Seq = op.p.Seq
			}
			notes.Append(op.recs[i])
		}
	}
	table := make([]RowEntry, g.K)
	for c := range op.p.N {
		it := op.items[op.p.CopyOf(c)]
		h := head
		h.Kind, h.Page = KindPage, it.Page
		if it.Kind == ItemNotes {
			h.Kind, h.Page = KindNotes, 0
		} else {
			base.vals[c] = op.vers[it.Page]
			h.CRC = uint32(base.vals[c])
		}
		table[c] = RowEntry{Page: h.Page, CRC: h.CRC, Kind: h.Kind}
		op.cells[c] = &smallCell{b: encode(h, nil), h: h}
	}
	for c := g.K; c < g.Members(); c++ {
		if g.Mirror() {
			op.cells[c] = &smallCell{b: op.cells[0].b, h: op.cells[0].h}
			continue
		}
		h := head
		h.Kind = KindParity
		op.cells[c] = &smallCell{b: encode(h, table), h: h}
	}
	for _, c := range op.cells {
		if c != nil {
			c.row, c.vals, c.note = base.row, base.vals, base.note
		}
	}
}

// have is the mask of members that have row i of group g as a log says it is, and
// that its client reaches.
func (w *smallWorld) have(l *Log, g GroupID, i Index) (mask uint32, cell *smallCell) {
	for m, c := l.Survivors(g, i), 0; c < w.width(); c++ {
		if s := w.at(g, c).slots[i].now; m&(1<<c) != 0 && s != nil && !s.bad && l.isOf(s.h, g, i) {
			mask |= 1 << c
			cell = s
		}
	}
	return mask, cell
}

// read is a page-in; false: EIO.
func (w *smallWorld) read(cl *smallClient, p PageNo) (uint8, bool) {
	e := cl.log.Lookup(p)
	switch e.Kind {
	case Absent:
		return 0, true
	case Filled:
		return e.Fill, true
	}
	cell, ok := w.slot(cl, e.Slot)
	if !ok {
		return 0, false
	}
	return cell.vals[cl.log.Place(e.Slot).Col], true
}

// slot reads a data slot, from its own member or from others.
func (w *smallWorld) slot(cl *smallClient, s Slot) (*smallCell, bool) {
	at := cl.log.Place(s)
	have, cell := w.have(cl.log, at.Group, at.Index)
	if have&(1<<at.Col) == 0 && !cl.log.CanDecode(have, cl.log.FilledCols(at.Group, at.Index)) {
		return nil, false
	}
	return cell, true
}
