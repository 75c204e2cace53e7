package client

import (
	"dmps/raid"
)

// batch is a set of page-outs that is written together: one placement, one
// parity, one transfer a member.
type batch struct {
	p     raid.Placement
	bufs  []*Buf // n data pages in the order of the placement; bufs[0] is note if there is one
	items []raid.Item

	parity []*Buf // M columns of 32 pages, owned for ever
	note   *Buf   // one page for notes, owned for ever
	noteID raid.NoteID
	noted  bool

	fills bufQueue  // page-outs that are in the note
	trims opList    // trims that are in the note
	clean *cleaning // what is moved; nil: page-outs

	// In-place layouts: one chunk.
	group raid.GroupID

	to   [raid.MaxData + raid.MaxParity]dest // whom the columns are sent to
	also [raid.MaxData + raid.MaxParity]dest // and the pending members that get them too

	left     int    // transfers that have not completed
	failed   uint32 // members whose transfer did not succeed
	lagged   uint32 // pending members that do not have it, or are not pending any more
	promoted uint32 // columns whose pending member has become the member since
	err      error
	begun    int64 // when it was formed, by Volume.clock
	again    bool  // nothing had found a place for some time then

	next *batch
}

func newBatch(g raid.Geometry, own *pool, next *batch) *batch {
	full := raid.MaxBatchPages * g.K
	b := &batch{
		bufs:  make([]*Buf, 0, full),
		items: make([]raid.Item, 0, full),
		next:  next,
	}
	got, ok := own.tryGet(raid.MaxBatchPages*g.M+1, nil)
	if !ok {
		panic("client: arena too small for the batches")
	}
	b.note, b.parity = got[0], got[1:]
	return b
}

// parityBuf is row r of parity column m (0 .. M-1).
func (b *batch) parityBuf(m, r int) *Buf { return b.parity[m*raid.MaxBatchPages+r] }

// addCopies fills the places that hold copies (raid.Placement).
func (b *batch) addCopies() {
	for i := b.p.Pages; i < b.p.N; i++ {
		b.bufs = append(b.bufs, b.bufs[b.p.CopyOf(i)])
		b.items = append(b.items, raid.Item{Kind: raid.ItemCopy})
	}
}

func (b *batch) addPage(buf *Buf) {
	buf.state = bufInFlight
	b.bufs = append(b.bufs, buf)
	b.items = append(b.items, raid.Item{Kind: raid.ItemPage, Page: buf.page})
}

// addFill adds a same-filled page, and addTrim a trim, to those that the note names.
func (b *batch) addFill(buf *Buf) {
	buf.state = bufInFlight
	b.fills.push(buf)
}

func (b *batch) addTrim(op *Op) {
	op.st.flying = true
	b.trims.push(op)
}

// encode computes everything that travels with the pages: checksums, headers
// and parity. No lock is held: the pages of a batch do not change.
func (b *batch) encode(v *Volume) {
	var table [raid.MaxBatchPages][raid.MaxData]raid.RowEntry
	p := &b.p
	for i, buf := range b.bufs {
		col, index := p.At(i)
		row := i % p.Rows
		if i >= p.Pages { // a copy, header and all
			table[row][col] = table[row][0]
			continue
		}
		h := raid.Header{
			Kind: raid.KindPage, Filled: p.FilledCols(row), Members: p.Named, Page: b.items[i].Page,
			Seq: p.Seq, Settled: p.Settled, CRC: raid.Checksum(buf.Page), Site: v.site(p.Group, index),
		}
		if b.items[i].Kind == raid.ItemNotes {
			h.Kind, h.Page = raid.KindNotes, 0
		}
		h.Put(buf.hdr[:raid.HeaderSize], nil)
		table[row][col] = raid.RowEntry{Page: h.Page, CRC: h.CRC, Kind: h.Kind}
	}
	if v.geo.Mirror() {
		return // parity is the page itself, header and all
	}
	var data [raid.MaxData][]byte
	var par [raid.MaxParity][]byte
	hdr := raid.HeaderBytes(v.geo, raid.Col(v.geo.K))
	for r := range p.Rows {
		for c := range v.geo.K {
			data[c] = nil
			if i := c*p.Rows + r; i < p.N {
				data[c] = b.bufs[i].Page
			}
		}
		for m := range v.geo.M {
			par[m] = nil
			if (p.Members|p.Second)&(1<<(v.geo.K+m)) != 0 {
				par[m] = b.parityBuf(m, r).Page
			}
		}
		v.coder.EncodeRow(data[:v.geo.K], par[:v.geo.M])
		for m := range v.geo.M {
			if par[m] == nil {
				continue
			}
			h := raid.Header{
				Kind: raid.KindParity, Filled: p.FilledCols(r), Members: p.Named,
				Seq: p.Seq, Settled: p.Settled, CRC: raid.Checksum(par[m]), Site: v.site(p.Group, p.Index[r]),
			}
			h.Put(b.parityBuf(m, r).hdr[:hdr], table[r][:v.geo.K])
		}
	}
}

// site is what the header of row i of group g says of its place.
func (v *Volume) site(g raid.GroupID, i raid.Index) raid.Site {
	return raid.Site{Volume: uint32(v.layout.Volume), Group: g, Index: i}
}

// aimLocked decides whom the placed batch is sent to.
func (b *batch) aimLocked(v *Volume) {
	clear(b.to[:])
	clear(b.also[:])
	b.left = 0
	for c := range raid.Col(v.geo.Members()) {
		from, to := b.column(v, c)
		if b.p.Members&(1<<c) != 0 {
			b.to[c] = v.member(b.p.Group, c).dest()
			if to > from {
				b.left++
			}
		}
		if b.p.Second&(1<<c) != 0 {
			b.also[c] = v.mover(b.p.Group, c).dest()
			if to > from {
				b.left++
			}
		}
	}
}

// column is the range of rows or pages that member c gets: pages of the batch
// for a data column, rows for a parity column.
func (b *batch) column(v *Volume, c raid.Col) (from, to int) {
	if int(c) < v.geo.K {
		return b.p.Column(c)
	}
	return 0, b.p.Rows
}

// send starts the transfers, one a member and one a pending member. With the last of them b may be over
// and in use for something else, so it is not looked at after that.
func (b *batch) send(v *Volume) {
	todo := b.left
	for c := raid.Col(0); todo > 0; c++ {
		from, to := b.column(v, c)
		if to == from {
			continue
		}
		for _, d := range [2]*dest{&b.to[c], &b.also[c]} {
			if d.peer == nil {
				continue
			}
			x := v.xfers.get()
			x.batch, x.col, x.second = b, c, d == &b.also[c]
			x.req.Op = opWrite
			x.req.Chunk = uint64(d.chunk)
			for i := from; i < to; i++ {
				buf, n := b.pageFor(v, c, i)
				x.add(b.p.Index[(i-from)], buf.hdr[:n], buf.Page)
			}
			if todo--; todo == 0 {
				d.peer.send(x)
				return
			}
			d.peer.send(x)
		}
	}
}

// pageFor is page i of column c, and the size of its header.
func (b *batch) pageFor(v *Volume, c raid.Col, i int) (*Buf, int) {
	switch {
	case int(c) < v.geo.K:
		return b.bufs[i], raid.HeaderSize
	case v.geo.Mirror():
		return b.bufs[i], raid.HeaderSize
	default:
		return b.parityBuf(int(c)-v.geo.K, i), raid.HeaderBytes(v.geo, c)
	}
}
