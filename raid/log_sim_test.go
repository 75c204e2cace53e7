package raid

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"pgregory.net/rapid"
)

// sim is a volume without a network: a Log, the memory of the members of its
// groups, a driver that uses the Log as package client does, and what every
// page must read as. Nothing in it runs by itself: the state machine of
// log_property_test.go takes the steps.
type sim struct {
	t     *rapid.T
	rnd   *rand.Rand // details that need no shrinking
	cfg   LogConfig
	log   *Log
	coder *Coder

	members [][]*simMember // [group][col]
	pending [][]*simMember // likewise; nil: none
	bySeq   map[Seq]*simOp // what was written under a number
	rowSeq  [][]Seq        // [group][row] what was committed there last
	pages   []simPage
	version uint64

	ops       []*simOp
	erasures  []*simErasure
	views     []*simView
	ghosts    []*simOp // of earlier lives, or over: may still land on members that were down ever since
	reads     []simRead
	advances  int // read epochs ended
	lives     int
	state     Incomplete // of the last recovery
	full      bool       // rows could not be moved before the log began, since none was free
	unsettled bool       // the log began although its recovery could not be settled
	trust     map[int]Seq
}

// simMember is the memory that one server lends.
type simMember struct {
	slots    []simSlot
	up, lost bool
	unsure   bool // was not read by the last recovery: the log must guess what it holds
	filling  bool // is rebuilding, for all that the metadata service knows: no recovery asks it
	more     bool // was a pending member: may hold more than the log knows
	old      bool // pending: what an earlier client wrote is erased before it is used
}

// simSlot is a slot as it lies in a server's memory; both nil: as the chunk was made.
type simSlot struct{ header, page []byte }

// value is what a page may read as.
type value struct {
	stored  bool
	fill    byte   // !stored
	version uint64 // stored
	found   []byte // not nil: whatever was found when a loss was accepted
}

type simPage struct {
	want  value   // the last answered write
	maybe []value // unanswered writes since: a recovery may bring them back
	busy  bool    // a page-out or a trim of it is in flight
	eio   bool    // a recovery could not decide
	any   bool    // the loss of it was accepted: it may be anything
}

// simOp is a batch in flight.
type simOp struct {
	p      Placement
	items  []Item
	values []value
	pages  [][]byte
	out    [MaxData + MaxParity][]simSlot // [col][row of the batch]

	noted   bool
	note    NoteID
	records []simRecord

	move   bool
	adv    int
	todo   uint32 // members that were not sent it completely
	failed bool

	to, second [MaxData + MaxParity]*simMember // whom it is sent to
	todo2      uint32                          // pending members that were not sent it completely
	lag        uint32                          // pending members that do not count any more
	promoted   uint32                          // columns whose pending member has become the member since
}

// simRecord is a record of the batch's note page; moved ones keep their Seq.
type simRecord struct {
	NoteRecord
	from Slot
}

// simRead is a page-in that takes its time.
type simRead struct {
	place  Place
	header []byte
	adv    int
}

func newSim(t *rapid.T, g Geometry) *sim {
	s := &sim{t: t, rnd: newRand(rapid.Uint64().Draw(t, "seed"))}
	s.cfg = LogConfig{
		Geometry: g,
		Groups:   rapid.IntRange(1, 3).Draw(t, "groups"),
		Rows:     uint32(rapid.IntRange(30, 140).Draw(t, "rows")), // bitmaps of one to three words
		MinAck:   rapid.IntRange(g.K, min(g.K+1, g.Members())).Draw(t, "min ack"),
	}
	s.cfg.Pages = uint64(s.cfg.Groups) * uint64(s.cfg.Rows-viewRows) * uint64(g.K) * 6 / 10
	s.pages = make([]simPage, s.cfg.Pages)
	s.members = make([][]*simMember, s.cfg.Groups)
	s.pending = make([][]*simMember, s.cfg.Groups)
	s.bySeq = make(map[Seq]*simOp)
	s.rowSeq = make([][]Seq, s.cfg.Groups)
	s.trust = make(map[int]Seq)
	for i := range s.members {
		s.members[i] = make([]*simMember, g.Members())
		s.pending[i] = make([]*simMember, g.Members())
		s.rowSeq[i] = make([]Seq, s.cfg.Rows)
		for c := range s.members[i] {
			s.members[i][c] = &simMember{slots: make([]simSlot, s.cfg.Rows), up: true}
		}
	}
	var err error
	if s.coder, err = NewCoder(g); err != nil {
		t.Fatal(err)
	}
	s.newLog()
	s.settleLog()
	return s
}

// newLog is what an attach does before it recovers.
func (s *sim) newLog() {
	s.lives++
	var err error
	if s.log, err = NewLog(s.cfg); err != nil {
		s.t.Fatal(err)
	}
	s.log.GuardThin()
	for g := range s.members {
		for c := range s.members[g] {
			m := s.members[g][c]
			s.log.SetUp(GroupID(g), Col(c), m.up && !m.filling)
			s.log.SetNoted(GroupID(g), Col(c), m.lost || m.filling, false)
			if m.lost {
				s.log.SetLost(GroupID(g), Col(c))
			}
		}
	}
}

// content is what page p reads as when it has value v.
func (s *sim) content(p PageNo, v value) []byte {
	if v.found != nil {
		return v.found
	}
	b := make([]byte, PageSize)
	if !v.stored {
		for i := range b {
			b[i] = v.fill
		}
		return b
	}
	x := uint64(p)<<40 ^ v.version
	for i := 0; i < PageSize; i += 8 {
		x += 0x9e3779b97f4a7c15
		binary.LittleEndian.PutUint64(b[i:], x*(x>>29|1))
	}
	return b
}

// add puts a page into a batch that is being formed.
func (op *simOp) add(it Item, v value, page []byte) {
	op.items = append(op.items, it)
	op.values = append(op.values, v)
	op.pages = append(op.pages, page)
}

// addNote makes the batch's first page a note page, to be written by launch.
func (s *sim) addNote(op *simOp, records []simRecord) bool {
	id, ok := s.log.NewNote(op.move)
	if !ok {
		return false
	}
	op.noted, op.note, op.records = true, id, records
	op.add(Item{Kind: ItemNotes, Note: id}, value{}, make([]byte, PageSize))
	return true
}

// launch places the batch and encodes it; sending comes later. False: no
// rows, and nothing happened.
func (s *sim) launch(op *simOp) bool {
	if !s.log.Reserve(len(op.items), op.move, &op.p) {
		if op.noted {
			s.log.FreeNote(op.note)
		}
		return false
	}
	n := op.p.Pages
	op.items, op.values, op.pages = op.items[:n], op.values[:n], op.pages[:n]
	for i := n; i < op.p.N; i++ {
		op.add(Item{Kind: ItemCopy}, value{}, op.pages[op.p.CopyOf(i)])
	}
	op.adv = s.advances
	op.todo, op.todo2 = op.p.Members, op.p.Second
	for c := range s.cfg.Geometry.Members() {
		op.to[c] = s.members[op.p.Group][c]
		if op.p.Second&(1<<c) != 0 {
			op.second[c] = s.pending[op.p.Group][c]
		}
	}
	s.bySeq[op.p.Seq] = op
	if op.noted {
		notes := NewNotes(op.pages[0])
		for i := range op.records {
			if !op.move {
				op.records[i].Seq = op.p.Seq
			}
			if !notes.Append(op.records[i].NoteRecord) {
				s.t.Fatal("too many records")
			}
		}
	}
	s.encode(op)
	if !op.move {
		op.eachPage(func(p PageNo, _ value) { s.pages[p].busy = true })
	}
	s.ops = append(s.ops, op)
	return true
}

// encode makes the slots that go to the members, as client does: data columns
// that a row does not fill are not sent.
func (s *sim) encode(op *simOp) {
	g := s.cfg.Geometry
	for c := range g.Members() {
		op.out[c] = make([]simSlot, op.p.Rows)
	}
	head := Header{Members: op.p.Named, Seq: op.p.Seq, Settled: op.p.Settled}
	for r := range op.p.Rows {
		head.Site = s.log.Site(op.p.Group, op.p.Index[r])
		data, table := make([][]byte, g.K), make([]RowEntry, g.K)
		for c := range g.K {
			i := c*op.p.Rows + r
			if i >= op.p.N {
				continue
			}
			if col, at := op.p.At(i); col != Col(c) || at != op.p.Index[r] {
				s.t.Fatalf("page %d of %d in %d rows is at %d/%d", i, op.p.N, op.p.Rows, col, at)
			}
			h := head
			it := op.items[op.p.CopyOf(i)]
			h.Kind, h.Page, h.Filled, h.CRC = KindPage, it.Page, op.p.FilledCols(r), Checksum(op.pages[i])
			if it.Kind == ItemNotes {
				h.Kind, h.Page = KindNotes, 0
			}
			data[c] = op.pages[i]
			table[c] = RowEntry{Page: h.Page, CRC: h.CRC, Kind: h.Kind}
			op.out[c][r] = simSlot{encode(h, nil), data[c]}
		}
		parity := make([][]byte, g.M)
		for m := range parity {
			parity[m] = make([]byte, PageSize)
		}
		s.coder.EncodeRow(data, parity)
		for m := range parity {
			if g.Mirror() {
				op.out[1+m][r] = op.out[0][r]
				continue
			}
			h := head
			h.Kind, h.Filled, h.CRC = KindParity, op.p.FilledCols(r), Checksum(parity[m])
			op.out[g.K+m][r] = simSlot{encode(h, table), parity[m]}
		}
	}
}

// eachPage calls f for each page that the batch gives a new value.
func (op *simOp) eachPage(f func(PageNo, value)) {
	for i, it := range op.items {
		if it.Kind == ItemPage {
			f(it.Page, op.values[i])
		}
	}
	for _, r := range op.records {
		for p := r.Start; p < r.Start+PageNo(r.Count); p++ {
			f(p, value{fill: r.Fill})
		}
	}
}

// land writes the first rows of the batch to member c.
func (s *sim) land(op *simOp, c Col, rows int) {
	op.landOn(op.to[c], c, rows)
	if rows >= op.p.Rows {
		op.todo &^= 1 << c
	} else if s.rnd.Uint32N(2) == 0 {
		// Receiving has begun, of some rows or of all: what was there is gone.
		for r := rows; r < op.p.Rows; r++ {
			if m := op.to[c]; op.out[c][r].header != nil && !m.lost && s.rnd.Uint32N(3) > 0 {
				m.slots[op.p.Index[r]] = s.erased(op.p.Group, c, op.p.Index[r], op.p.Seq-1)
			}
		}
	}
}

func (op *simOp) landOn(m *simMember, c Col, rows int) {
	for r := range min(rows, op.p.Rows) {
		if out := op.out[c][r]; out.header != nil && !m.lost {
			m.slots[op.p.Index[r]] = out
		}
	}
}

// commit ends a batch that the members in wrote have.
func (s *sim) commit(op *simOp, wrote uint32) {
	s.log.Commit(&op.p, op.items, wrote)
	for r := range op.p.Rows {
		s.rowSeq[op.p.Group][op.p.Index[r]] = op.p.Seq
	}
	for _, r := range op.records {
		if op.move {
			s.log.MoveFill(r.from, op.note, r.Start, uint64(r.Count), r.Fill)
		} else {
			s.log.CommitFill(op.note, r.Start, uint64(r.Count), r.Fill)
		}
	}
	if op.noted {
		s.log.SealNote(op.note)
	}
	if !op.move {
		op.eachPage(func(p PageNo, v value) { s.pages[p] = simPage{want: v} })
	}
}

// abandon gives a failed batch up. Its pages may be in servers' memory.
func (s *sim) abandon(op *simOp) {
	s.log.Abandon(&op.p)
	if op.noted {
		s.log.FreeNote(op.note)
	}
	s.forget(op)
}

func (s *sim) forget(op *simOp) {
	if op.move {
		for _, it := range op.items {
			if it.Kind == ItemMove {
				// The same value; but if the row cannot be decoded EIO is the right answer.
				s.pages[it.Page].maybe = append(s.pages[it.Page].maybe, s.pages[it.Page].want)
			}
		}
		for _, r := range op.records {
			for p := r.Start; p < r.Start+PageNo(r.Count); p++ {
				s.pages[p].maybe = append(s.pages[p].maybe, s.pages[p].want)
			}
		}
		return
	}
	op.eachPage(func(p PageNo, v value) {
		s.pages[p].busy = false
		s.pages[p].maybe = append(s.pages[p].maybe, v)
	})
}

// holders is the mask of members that in truth have row i of group g, as far
// as they can be asked.
func (s *sim) holders(g GroupID, i Index, up bool) uint32 {
	var have uint32
	for c, m := range s.members[g] {
		if m.lost || up && !m.up || m.slots[i].header == nil {
			continue
		}
		if h, err := ParseHeader(m.slots[i].header); err == nil && h.Holds() && h.Seq == s.rowSeq[g][i] {
			have |= 1 << c
		}
	}
	return have
}

// readSlot reads a data slot as a page-in does: from its own member, else from
// the others. False: EIO.
func (s *sim) readSlot(at Place, kind HeaderKind, p PageNo) ([]byte, bool) {
	members := s.members[at.Group]
	good := func(c Col) bool {
		m := members[c]
		if m.lost || !m.up || m.slots[at.Index].header == nil {
			return false
		}
		h, err := ParseHeader(m.slots[at.Index].header)
		return err == nil && h.Holds() && TagOf(h.Seq) == at.Tag && Checksum(m.slots[at.Index].page) == h.CRC
	}
	if good(at.Col) {
		own := members[at.Col].slots[at.Index]
		h, _ := ParseHeader(own.header)
		if h.Kind != kind || h.Page != p {
			s.t.Fatalf("%+v holds %+v, not page %d", at, h, p)
		}
		return own.page, true
	}
	var have uint32
	shards := make([][]byte, len(members))
	for c := range members {
		if s.log.Survivors(at.Group, at.Index)&(1<<c) != 0 && good(Col(c)) {
			have |= 1 << c
			shards[c] = members[c].slots[at.Index].page
		}
	}
	dst := make([]byte, PageSize)
	if err := s.coder.Reconstruct(shards, have, s.log.FilledCols(at.Group, at.Index), at.Col, dst); err != nil {
		return nil, false
	}
	return dst, true
}

// read is a page-in.
func (s *sim) read(p PageNo) ([]byte, bool) {
	switch e := s.log.Lookup(p); e.Kind {
	case Absent:
		return s.content(p, value{}), true
	case Filled:
		return s.content(p, value{fill: e.Fill}), true
	default:
		return s.readSlot(s.log.Place(e.Slot), KindPage, p)
	}
}

// verify reads a page and compares it with the oracle.
func (s *sim) verify(p PageNo) {
	pg := &s.pages[p]
	got, ok := s.read(p)
	if pg.eio {
		if ok {
			s.decide(p, got)
		}
		return
	}
	if !ok {
		at := s.log.Place(s.log.Lookup(p).Slot)
		have := s.holders(at.Group, at.Index, true)
		for c, m := range s.members[at.Group] {
			if m.more && s.log.Holders(at.Group, at.Index)&(1<<c) == 0 {
				have &^= 1 << c // has it, but who would know
			}
		}
		if s.log.CanDecode(have, s.log.FilledCols(at.Group, at.Index)) {
			s.t.Fatalf("page %d is EIO, although members %#b have its row", p, have)
		}
		return
	}
	if !bytes.Equal(got, s.content(p, pg.want)) {
		s.t.Fatalf("page %d does not read as %+v: %s", p, pg.want, s.where(p))
	}
}

func (s *sim) where(p PageNo) string {
	e := s.log.Lookup(p)
	if e.Kind != Stored {
		return fmt.Sprintf("%+v", e)
	}
	return fmt.Sprintf("%+v %+v", e, s.log.Place(e.Slot))
}
