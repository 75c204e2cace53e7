package raid

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
)

// smallHasher gives worlds that go on alike the same number. Sequence numbers and
// versions count by their order only: a log asks of two of them which is higher, and
// of those up to which a group is settled which ones are above.
type smallHasher struct {
	seed maphash.Seed
	buf  []byte
	seqs []Seq
	vers [256]uint8
	full bool // slots may turn back: what they held before counts
}

func (h *smallHasher) u8(v uint8)   { h.buf = append(h.buf, v) }
func (h *smallHasher) u32(v uint32) { h.buf = binary.LittleEndian.AppendUint32(h.buf, v) }
func (h *smallHasher) flag(b bool) {
	if b {
		h.u8(1)
	} else {
		h.u8(0)
	}
}
func (h *smallHasher) seq(s Seq)       { h.u8(h.rank(s)) }
func (h *smallHasher) version(v uint8) { h.u8(h.vers[v]) }

// rank is how many of the sequence numbers of the world are up to s.
func (h *smallHasher) rank(s Seq) uint8 {
	i, found := slices.BinarySearch(h.seqs, s)
	if found {
		i++
	}
	return uint8(i)
}

func (h *smallHasher) hash(w *smallWorld) uint64 {
	h.buf, h.seqs = h.buf[:0], h.seqs[:0]
	h.vers = [256]uint8{}
	h.collect(w)
	slices.Sort(h.seqs)
	h.seqs = slices.Compact(h.seqs)
	n := uint8(0)
	for v := range h.vers {
		if h.vers[v] != 0 {
			n++
			h.vers[v] = n
		}
	}
	h.u32(w.away)
	h.u32(w.dirty)
	h.flag(w.over)
	h.flag(w.refused)
	for p := range w.pages {
		pg := &w.pages[p]
		h.version(pg.want)
		h.u8(uint8(len(pg.maybe)))
		for _, v := range pg.maybe {
			h.version(v)
			h.flag(v > w.before && w.old != nil)
		}
		h.flag((pg.since || pg.want > w.before) && w.old != nil)
	}
	for k := range w.m {
		m := &w.m[k]
		h.u8(uint8(m.lied))
		h.u8(uint8(m.hollow))
		h.u8(uint8(m.shown))
		h.flag(m.lost)
		h.flag(m.empty)
		h.flag(m.filling)
		for i := range w.x.cfg.Rows {
			s := &m.slots[i]
			h.cell(s.now)
			h.cell(s.next)
			if h.full {
				h.cell(s.old)
			}
		}
	}
	h.client(w, w.cur)
	h.client(w, w.old)
	return maphash.Bytes(h.seed, h.buf)
}

// collect notes which sequence numbers and versions there are.
func (h *smallHasher) collect(w *smallWorld) {
	cell := func(c *smallCell) {
		if c == nil {
			return
		}
		h.seqs = append(h.seqs, c.h.Seq)
		for _, v := range c.vals {
			h.vers[v] = 1
		}
		h.eachRecord(c, func(r NoteRecord) {
			h.seqs = append(h.seqs, r.Seq)
			h.vers[r.Fill] = 1
		})
	}
	for k := range w.m {
		for i := range w.x.cfg.Rows {
			s := &w.m[k].slots[i]
			cell(s.now)
			cell(s.next)
			if h.full {
				cell(s.old)
			}
		}
	}
	for p := range w.pages {
		h.vers[w.pages[p].want] = 1
		for _, v := range w.pages[p].maybe {
			h.vers[v] = 1
		}
	}
	for _, c := range []*smallClient{w.cur, w.old} {
		if c == nil {
			continue
		}
		for _, e := range c.log.fwd {
			if e.filled() {
				h.vers[e.value()] = 1
			}
		}
		for _, op := range c.ops {
			h.seqs = append(h.seqs, op.p.Seq)
			for _, v := range op.vers {
				h.vers[v] = 1
			}
		}
		for g := range c.log.groups {
			gr := &c.log.groups[g]
			h.seqs = append(h.seqs, gr.view.seq)
			for k := range gr.window.n {
				h.seqs = append(h.seqs, gr.window.batches[(gr.window.head+k)%windowBatches].seq)
			}
		}
	}
}

func (h *smallHasher) eachRecord(c *smallCell, f func(NoteRecord)) {
	if c.note == nil {
		return
	}
	n := Notes{c.note}
	for i := range n.Len() {
		f(n.At(i))
	}
}

func (h *smallHasher) cell(c *smallCell) {
	if c == nil {
		h.u8(0)
		return
	}
	h.u8(uint8(c.h.Kind) + 1)
	if c.h.Kind == KindErased {
		h.seq(c.h.Seq)
		return
	}
	h.u8(uint8(c.h.Filled))
	h.flag(c.bad)
	h.u8(uint8(c.h.Members))
	h.u8(uint8(c.h.Page))
	h.seq(c.h.Seq)
	h.seq(c.h.Settled)
	for _, v := range c.vals {
		h.version(v)
	}
	h.eachRecord(c, func(r NoteRecord) {
		h.u8(uint8(r.Start))
		h.seq(r.Seq)
		h.version(r.Fill)
	})
}

func (h *smallHasher) client(w *smallWorld, c *smallClient) {
	h.flag(c != nil)
	if c == nil {
		return
	}
	h.u32(c.unread)
	h.u8(uint8(len(c.ops)))
	for _, op := range c.ops {
		h.seq(op.p.Seq)
		h.flag(op.failed)
		h.u8(uint8(op.acked))
		h.flag(op.late)
		h.flag(op.move)
		h.flag(op.trim)
		h.u8(uint8(op.p.Group))
		h.u8(uint8(op.p.Index[0]))
		h.u8(uint8(op.p.Members))
		h.u8(uint8(op.p.Named))
		h.u8(uint8(op.note))
		h.u8(uint8(op.from))
		for _, it := range op.items {
			h.u8(uint8(it.Kind))
			h.u8(uint8(it.Page))
			h.u8(uint8(it.From))
		}
		for _, v := range op.vers {
			h.version(v)
		}
	}
	if e := c.era; e != nil {
		h.u8(uint8(e.Group) + 1)
		h.u8(uint8(e.Members))
		h.u8(uint8(e.failed))
		h.u8(uint8(e.acked))
		h.flag(e.moved == c.log.groups[e.Group].moved)
		for _, i := range e.Index[:e.Rows] {
			h.u8(uint8(i))
		}
	}
	if v := c.view; v != nil {
		h.u8(uint8(v.Group) + 0x81)
		h.seq(v.Seq)
		h.seq(v.Settled)
		h.u8(uint8(v.Index))
		h.u8(uint8(v.Members))
		h.u8(uint8(v.To))
		h.u8(uint8(v.failed))
		h.u8(uint8(v.acked))
		h.flag(v.moved == c.log.groups[v.Group].moved)
	}
	h.log(w, c.log)
}

func (h *smallHasher) log(w *smallWorld, l *Log) {
	h.flag(l.opened)
	h.flag(l.viewDue)
	h.u8(uint8(l.hand))
	h.u8(uint8(l.viewHand))
	for _, e := range l.fwd {
		if e.filled() {
			h.u32(uint32(e) &^ 0xff)
			h.version(e.value())
			continue
		}
		h.u32(uint32(e))
	}
	for i := range l.notes {
		n := &l.notes[i]
		h.u8(uint8(n.live))
		h.u8(uint8(n.next))
		h.u8(uint8(n.slot))
		h.flag(n.open)
	}
	h.u8(uint8(l.noteFree))
	for row, n := range l.live {
		h.u8(n)
		if n == 0 {
			continue
		}
		for c := range l.g.K {
			h.u32(uint32(l.rev[row*l.g.K+c]))
		}
		h.tag(w, l, row)
		h.u8(uint8(l.sentTo[uint32(row)]))
		h.u8(uint8(l.unheard[uint32(row)]))
		h.flag(l.spared[uint32(row)])
	}
	for _, q := range l.limbo {
		for r := q.head; r != 0; r = uint32(l.rev[(r-1)*uint32(l.g.K)]) {
			h.u8(uint8(r))
		}
		h.u8(0xfe)
	}
	for _, r := range l.held {
		h.u8(uint8(r))
		for _, b := range l.rev[int(r)*l.g.K:][:l.g.K] {
			h.u32(uint32(b))
		}
	}
	h.flag(l.sweepDue)
	for i := range l.groups {
		h.group(&l.groups[i], l.g.Members(), l.opened)
	}
}

// tag is whose batch a row is of.
func (h *smallHasher) tag(w *smallWorld, l *Log, row int) {
	for _, s := range h.seqs {
		if TagOf(s) == l.tag[row] {
			h.seq(s)
			return
		}
	}
	h.u8(0xff) // nobody has it any more
}

func (h *smallHasher) group(g *logGroup, members int, opened bool) {
	for _, m := range []uint32{g.up, g.lost, g.noted, g.damaged, g.erasing, g.hand, g.scan} {
		h.u8(uint8(m))
	}
	for c := range members {
		h.u8(uint8(g.missed[c][0]))
		h.u8(uint8(g.stale[c][0]))
	}
	for _, b := range [][]uint64{g.free, g.partial, g.doomed, g.void, g.unsure, g.torn} {
		h.u8(uint8(b[0]))
	}
	h.seq(g.placed)
	if !opened {
		h.seq(g.mark)
	}
	v := &g.view
	h.u8(uint8(v.members))
	h.u8(uint8(v.copies))
	h.seq(v.seq)
	h.seq(v.settled)
	h.u8(uint8(v.slot))
	h.flag(v.taken)
	h.flag(v.own)
	h.flag(v.renew)
	h.flag(v.tried > v.seq)
	h.u8(uint8(v.whole))
	h.u8(uint8(v.barred))
	h.u8(uint8(g.window.n))
	for k := range g.window.n {
		b := &g.window.batches[(g.window.head+k)%windowBatches]
		h.seq(b.seq)
		h.u8(uint8(b.state))
	}
}
