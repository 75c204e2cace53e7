//go:build fabric && cgo

package fabric

import (
	"math/bits"

	"dmps/raid"
	"dmps/transport"
)

// slot is a credit, and the request that uses it.
type slot struct {
	i   uint16
	req *transport.Request // nil: free

	// One-sided.
	rem     *remote // nil: over the link
	hdr     int     // header bytes
	mask    uint32  // segments with a page
	phase   phase
	pending int // operations without an end
	bounce  int8
	runs    []transport.Run
	heads   []byte // scratch for the headers, in the order of the segments; nil: for the link alone
	erased  []byte // likewise, of a write: those of the erased slots

	// lent is the request that the link is given in place of req.
	lent transport.Request
}

// phase is how far a one-sided request is. With a provider that keeps the order
// of writes all parts of a write are posted at once.
type phase uint8

const (
	phaseErase phase = iota // of a write: headers of erased slots; the pages follow
	phasePages              // of a write: the pages; the headers follow
	phaseLast
)

// noBounce: the request has no bounce buffer.
const noBounce = -1

func ones(mask uint32) int { return bits.OnesCount32(mask) }

func (s *slot) init(c *conn, i int) {
	s.i, s.bounce = uint16(i), noBounce
	s.runs = make([]transport.Run, 0, transport.MaxSegs)
	if at := i * 2 * headerScratch; at < len(c.heads) {
		s.erased, s.heads = c.heads[at:at+headerScratch], c.heads[at+headerScratch:at+2*headerScratch]
	}
	s.lent.Done = func(*transport.Request) { c.linkDone(s) }
}

// borrow makes the request for the link.
func (s *slot) borrow(r *transport.Request) *transport.Request {
	s.req, s.rem = r, nil
	s.lent.Op, s.lent.Chunk, s.lent.Segs, s.lent.Count = r.Op, r.Chunk, r.Segs, r.Count
	return &s.lent
}

// beginLocked adds the first operations of a one-sided request to the ring.
func (c *conn) beginLocked(s *slot) {
	r := s.req
	s.pending = 0
	if r.Op == transport.OpReadHeaders {
		s.phase = phaseLast
		o := c.add(s, opRead, 0, s.rem.headers, uint64(r.Segs[0].Index)*uint64(s.hdr))
		o.piece(r.Segs[0].Header)
		return
	}
	s.runs = transport.AppendRuns(s.runs[:0], r.Segs)
	if r.Op == transport.OpRead {
		s.phase = phaseLast
		if c.addWhole(s, opRead) {
			return
		}
		c.addHeaders(s, opRead, 0)
		c.addPages(s, opRead, 0)
		return
	}
	s.encode()
	switch {
	case s.mask == 0:
		c.addLast(s)
	case c.addWhole(s, opWrite):
		s.phase = phaseLast
	case c.dom.caps.ordered:
		c.addErased(s, 0)
		c.addPages(s, opWrite, 0)
		c.addLast(s)
	default:
		s.phase = phaseErase
		c.addErased(s, delivered)
	}
}

// encode makes the headers that a write puts into the slots, first and last.
func (s *slot) encode() {
	for i, seg := range s.req.Segs {
		copy(s.heads[i*s.hdr:], seg.Header)
		if seg.Page != nil {
			raid.PutErasedFor(s.erased[i*s.hdr:(i+1)*s.hdr], seg.Header)
		}
	}
}

// nextLocked adds the operations of the next phase of s, and reports whether
// there was one.
func (c *conn) nextLocked(s *slot) bool {
	switch s.phase {
	case phaseErase:
		s.phase = phasePages
		c.addPages(s, opWrite, delivered)
	case phasePages:
		c.addLast(s)
	default:
		return false
	}
	return true
}

// addErased erases the slots that a write has a page for: one that ends in the
// middle must not leave an old header that vouches for a new page, nor look as if what
// was there could come back. Where there is no page the new header takes the old one's place.
func (c *conn) addErased(s *slot, flags uint32) {
	segs := s.req.Segs
	for from, to := 0, 0; from < len(segs); from = to {
		to = from + 1
		if segs[from].Page == nil {
			continue
		}
		for to < len(segs) && segs[to].Page != nil && segs[to].Index == segs[to-1].Index+1 {
			to++
		}
		c.add(s, opWrite, flags, s.rem.headers, uint64(segs[from].Index)*uint64(s.hdr)).piece(s.erased[from*s.hdr : to*s.hdr])
	}
}

// addLast adds the headers of a write, which make its pages count.
func (c *conn) addLast(s *slot) {
	s.phase = phaseLast
	c.addHeaders(s, opWrite, delivered)
}

func (c *conn) add(s *slot, kind, flags uint32, k key, off uint64) *op {
	s.pending++
	o := c.mu.ring.add()
	o.set(kind, uint64(s.i), flags, k, off)
	return o
}

// addHeaders adds the transfers between the scratch and the headers at the
// server, one a run.
func (c *conn) addHeaders(s *slot, kind, flags uint32) {
	at := 0
	for _, u := range s.runs {
		n := int(u.Count) * s.hdr
		c.add(s, kind, flags, s.rem.headers, uint64(u.Start)*uint64(s.hdr)).piece(s.heads[at : at+n])
		at += n
	}
}

// addWhole makes a request one operation, if it can be: its slots are one run, all
// with pages, and the provider takes as many pieces at a time. A write erases the
// slots with its first piece and ends with the headers, which needs a provider that
// keeps to that order. On tcp a page of 4 KiB so takes one send instead of three.
func (c *conn) addWhole(s *slot, kind uint32) bool {
	k, beside := &c.dom.caps, 1 // pieces that are headers
	if kind == opWrite {
		beside = 2
	}
	if len(s.runs) != 1 || ones(s.mask) != len(s.req.Segs) || k.rmas < 1+beside || kind == opWrite && !k.inOrder {
		return false
	}
	if n := s.pieces(); n+beside > k.iovs {
		// What goes through a buffer anyway is one piece then.
		if n <= k.iovs || !c.takeBounce(s, kind) {
			return false
		}
	}
	u, n := s.runs[0], int(s.runs[0].Count)*s.hdr
	headers, pages := uint64(u.Start)*uint64(s.hdr), uint64(u.Start)*transport.PageSize
	flags, first := uint32(0), s.heads[:n]
	if kind == opWrite {
		flags, first = delivered, s.erased[:n]
	}
	o := c.add(s, kind, flags, s.rem.headers, headers)
	o.piece(first)
	o.at(s.rem.pages, pages)
	for i := range s.req.Segs {
		o.piece(c.pageOf(s, i))
	}
	if kind == opWrite {
		o.at(s.rem.headers, headers)
		o.piece(s.heads[:n])
	}
	return true
}

// addPages adds the transfers between the request's pages and those at the
// server: neighbouring slots join. Pages that lie in more pieces here than the
// provider takes go through a bounce buffer, if one is free, else in several
// operations.
func (c *conn) addPages(s *slot, kind, flags uint32) {
	segs := s.req.Segs
	if s.bounce == noBounce && s.pieces() > c.dom.caps.iovs {
		c.takeBounce(s, kind)
	}
	var o *op
	for i := range segs {
		if segs[i].Page == nil {
			o = nil
			continue
		}
		mem := c.pageOf(s, i)
		if o != nil && (segs[i].Index != segs[i-1].Index+1 || segs[i].Index == 0 || !o.takes(mem, c.dom.caps.iovs)) {
			o = nil
		}
		if o == nil {
			o = c.add(s, kind, flags, s.rem.pages, uint64(segs[i].Index)*transport.PageSize)
		}
		o.piece(mem)
	}
}

// pieces is in how many pieces of memory the pages of one run of slots lie: of
// the run that has the most.
func (s *slot) pieces() int {
	segs := s.req.Segs
	n, most := 0, 0
	for i := range segs {
		switch {
		case segs[i].Page == nil:
			n = 0
		case i == 0 || n == 0 || segs[i].Index != segs[i-1].Index+1:
			n = 1
		case address(segs[i-1].Page)+transport.PageSize != address(segs[i].Page):
			n++
		}
		most = max(most, n)
	}
	return most
}

// takeBounce gives s a bounce buffer if one is free; for a write with its pages.
func (c *conn) takeBounce(s *slot, kind uint32) bool {
	k := len(c.mu.spare) - 1
	if k < 0 {
		return false
	}
	s.bounce = c.mu.spare[k]
	c.mu.spare = c.mu.spare[:k]
	if kind == opWrite {
		for i := range s.req.Segs {
			copy(c.bouncePage(s, i), s.req.Segs[i].Page)
		}
	}
	return true
}

// pageOf is the memory that a segment's page is moved to or from.
func (c *conn) pageOf(s *slot, seg int) []byte {
	if s.bounce != noBounce {
		return c.bouncePage(s, seg)
	}
	return s.req.Segs[seg].Page
}

// bouncePage is the place of a segment's page in the slot's bounce buffer.
func (c *conn) bouncePage(s *slot, seg int) []byte {
	at := int(s.bounce)*transferBytes + seg*transport.PageSize
	return c.bounce[at : at+transport.PageSize]
}

// deliver copies what a read brought into scratch to where it belongs.
func (c *conn) deliver(s *slot) {
	r := s.req
	if r.Op != transport.OpRead {
		return
	}
	for i := range r.Segs {
		copy(r.Segs[i].Header, s.heads[i*s.hdr:])
		if s.bounce != noBounce && r.Segs[i].Page != nil {
			copy(r.Segs[i].Page, c.bouncePage(s, i))
		}
	}
}

// freeLocked gives the credit back, and what the request held. The caller calls
// Done, and then landed with the chunk.
func (c *conn) freeLocked(s *slot) (*transport.Request, *remote) {
	r, m := s.req, s.rem
	s.req, s.rem = nil, nil
	if s.bounce != noBounce {
		c.mu.spare = append(c.mu.spare, s.bounce)
		s.bounce = noBounce
	}
	c.mu.free = append(c.mu.free, s.i)
	return r, m
}

// landed takes a request out of those in flight at a chunk, after its Done: a
// release returns when the caller has heard of all.
func (c *conn) landed(m *remote) {
	if m == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.flight--; m.flight == 0 && m.gone != nil {
		close(m.gone)
		m.gone = nil
	}
}
