package raid

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// Recovery rebuilds the map of a volume from the slot headers, which lie
// beside the pages in the servers' memory. The driver reads the headers of all
// members that it can reach and gives them in, row by row, then the notes,
// then calls Finish.
//
// Which rows count: a row was answered only when every member that it was
// sent to had it. When a reachable one of them does not have it, it was never
// answered and is dropped, and erased afterwards (Log.TakeDoomed): to keep it would let go of an older version that
// all members have for one that some have. When none of them contradicts, it
// may have been answered and counts, even if it cannot be decoded: then its
// pages answer EIO, unless their own member has them, until members return. To
// drop it would bring back older versions. So what was written but not
// answered may or may not be there.
//
// A row that was never answered is taken in when the members that lack it
// cannot be reached, and would be dropped by a later recovery that reaches them,
// when older versions of its pages may be gone. So rows that may be such are on
// trust, and the driver moves them at once (TrustVictims; log_trust.go). The
// limit of this: when the client dies before they are moved (Trusted), and the
// member that lacks one is read the next time. It may be that they cannot be
// moved for long, when they cannot be decoded or there are no rows. After a
// recovery without some members, compare what they hold when they return
// (SetMissed), and heal.
//
// Of all rows that hold a page the one with the highest Seq counts; a note's
// record counts with its own Seq. A page that was trimmed reads as zeros once
// the trim was answered.
type Recovery struct {
	l    *Log
	seqs []Seq // page -> Seq of the entry; dropped by Finish

	notes   []recoveredNote
	recent  [][]recentBatch // group -> batches that may not have been settled, by Seq; dropped by Finish
	torn    int
	short   int
	unnamed int
}

type recoveredNote struct {
	slot Slot
	seq  Seq
}

// NewRecovery starts the recovery of an empty log whose members' states are
// set already.
func NewRecovery(l *Log) *Recovery {
	if l.used != 0 || l.mapped != 0 || l.filled != 0 {
		panic("raid: recovery into a log that is in use")
	}
	return &Recovery{l: l, seqs: make([]Seq, l.pages), recent: make([][]recentBatch, len(l.groups))}
}

// RowHeaders is what the headers of one row say, without the row tables.
type RowHeaders struct {
	newest Header
	avail  uint32 // members whose header was read
	ok     uint32 // of them, those with a sound header that is not empty
	broken uint32 // those whose header is damaged
	have   uint32 // those whose header is of the newest Seq
	stale  uint32 // those that have an older one, which names fewer than all members
}

// Parse takes the headers of one row: headers[c] is that of member c, or nil
// when the member cannot be read. It is the part of a recovery that needs no
// Log, and so can run side by side.
func (h *RowHeaders) Parse(g Geometry, headers [][]byte) {
	*h = RowHeaders{}
	var (
		seqs [MaxData + MaxParity]Seq
		thin uint32
	)
	for c, b := range headers {
		if b == nil {
			continue
		}
		h.avail |= 1 << c
		p, err := ParseHeader(b)
		switch {
		case err != nil:
			h.broken |= 1 << c
			continue
		case p.Kind == KindEmpty:
			continue
		}
		h.ok |= 1 << c
		seqs[c] = p.Seq
		if p.Members != uint32(1)<<g.Members()-1 {
			thin |= 1 << c
		}
		if p.Seq > h.newest.Seq {
			h.newest = p
		}
	}
	for c := range headers {
		if h.ok&(1<<c) != 0 && seqs[c] == h.newest.Seq {
			h.have |= 1 << c
		}
	}
	h.stale = h.ok &^ h.have & thin
}

// Row takes the headers of one row. Rows must be given in any order, each once.
func (r *Recovery) Row(g GroupID, i Index, headers [][]byte) error {
	if len(headers) != r.l.g.Members() {
		return fmt.Errorf("recovering row %d of group %d: %d headers for %d members", i, g, len(headers), r.l.g.Members())
	}
	var h RowHeaders
	h.Parse(r.l.g, headers)
	r.Parsed(g, i, &h, headers)
	return nil
}

// Parsed is Row for headers that h has parsed.
func (r *Recovery) Parsed(g GroupID, i Index, h *RowHeaders, headers [][]byte) {
	if h.ok == 0 {
		return
	}
	l := r.l
	l.seq = max(l.seq, h.newest.Seq)
	gr := &l.groups[g]
	for m := h.stale; m != 0; m &= m - 1 {
		l.setStale(gr, Col(bits.TrailingZeros32(m)), i, true) // was out when that row was erased
	}
	// Data columns that the row does not fill were not sent.
	unfilled := (uint32(1)<<l.g.K - 1) &^ uint32(h.newest.Filled)
	sent := h.newest.Members &^ unfilled
	if h.avail&sent&^h.broken&^h.have != 0 {
		r.torn++
		r.saw(g, h.newest.Seq, i, false)
		l.unfree(gr, i)
		l.giveUp(gr, i)
		return // was never answered: somebody who would have it does not
	}
	if !l.CanDecode(h.have, h.newest.Filled) {
		r.short++
	}
	// Members that could not be read count as having what was sent to them. One
	// that is lost never contradicts.
	r.saw(g, h.newest.Seq, i, sent&^h.avail&^gr.lost != 0)
	r.adopt(g, i, h.newest, headers, h.have, h.have|unfilled|sent&^h.avail)
}

// adopt takes a row in use for as long as one of its pages is the newest
// version.
func (r *Recovery) adopt(g GroupID, i Index, h Header, headers [][]byte, have, holders uint32) {
	l := r.l
	gr := &l.groups[g]
	row := l.row(g, i)
	l.unfree(gr, i)
	l.tag[row] = TagOf(h.Seq)
	l.setMissed(gr, uint32(i), holders)
	l.written(gr, i, h.Members, have)
	l.live[row] = 1
	gr.hist[1]++
	gr.used++
	l.used++
	first := Slot(row) * Slot(l.g.K)
	for c := range l.g.K {
		s := first + Slot(c)
		l.rev[s] = backUnfilled
		if h.Filled&(1<<c) == 0 {
			continue
		}
		e, known := r.column(c, headers, have)
		if !known {
			r.unnamed++
			l.rev[s] = backNote // filled, and dead for all that is known
			continue
		}
		if e.Kind == KindNotes {
			// Its records are read later; until Finish the slot counts as live.
			l.rev[s] = backNote
			l.enliven(row)
			r.notes = append(r.notes, recoveredNote{slot: s, seq: h.Seq})
			continue
		}
		if uint64(e.Page) >= l.pages {
			l.rev[s] = backNote // filled, and dead
			continue
		}
		l.rev[s] = back(e.Page)
		if r.seqs[e.Page] >= h.Seq {
			continue
		}
		r.seqs[e.Page] = h.Seq
		l.enliven(row)
		l.point(e.Page, storedEntry(s))
	}
	l.kill(first)
}

// column says what data column c of a row holds: from its own member, else
// from any parity member's table.
func (r *Recovery) column(c int, headers [][]byte, have uint32) (RowEntry, bool) {
	if have&(1<<c) != 0 {
		return entryOf(headers[c]), true
	}
	for m := r.l.g.K; m < r.l.g.Members(); m++ {
		if have&(1<<m) == 0 {
			continue
		}
		if r.l.g.Mirror() {
			return entryOf(headers[m]), true
		}
		return ParseRowEntry(headers[m], c), true
	}
	return RowEntry{}, false
}

// Notes gives the slots of the note pages that were found, newest first. Read
// each; hand all of them to Note in any order, then all of them to Bind in the
// order given here.
func (r *Recovery) Notes() []Slot {
	slices.SortFunc(r.notes, func(a, b recoveredNote) int { return cmp.Compare(b.seq, a.seq) })
	s := make([]Slot, len(r.notes))
	for i := range r.notes {
		s[i] = r.notes[i].slot
	}
	return s
}

// Note takes the content of the note page in slot s: pages that one of its
// records is newer for are forgotten.
func (r *Recovery) Note(s Slot, page []byte) error {
	return r.records(s, page, func(p PageNo, rec NoteRecord) error {
		if r.seqs[p] < rec.Seq {
			r.seqs[p] = rec.Seq
			r.l.point(p, entryAbsent)
		}
		return nil
	})
}

// Bind makes the note page in slot s the owner of those pages that one of its
// records is the newest version of.
func (r *Recovery) Bind(s Slot, page []byte) error {
	l := r.l
	var id NoteID
	bound := false
	err := r.records(s, page, func(p PageNo, rec NoteRecord) error {
		if r.seqs[p] != rec.Seq || l.fwd[p] != entryAbsent {
			return nil
		}
		if !bound {
			n, ok := l.NewNote(true)
			if !ok {
				if n, ok = l.growNotes(); !ok {
					return errors.New("more than 2^23 note pages are in use")
				}
			}
			id, bound = n, true
			l.rev[s] = backNote | back(id)
			l.notes[id].slot = s
			l.enliven(uint32(s) / uint32(l.g.K))
		}
		l.point(p, filledEntry(id, rec.Fill))
		return nil
	})
	if bound {
		l.SealNote(id)
	}
	return err
}

func (r *Recovery) records(s Slot, page []byte, each func(PageNo, NoteRecord) error) error {
	n, err := ParseNotes(page)
	if err != nil {
		return fmt.Errorf("recovering the notes in slot %d: %w", s, err)
	}
	for i := range n.Len() {
		rec := n.At(i)
		r.l.seq = max(r.l.seq, rec.Seq)
		if uint64(rec.Start) >= r.l.pages || uint64(rec.Count) > r.l.pages-uint64(rec.Start) {
			return fmt.Errorf("recovering the notes in slot %d: record %d lies outside of the volume", s, i)
		}
		for p := rec.Start; p < rec.Start+PageNo(rec.Count); p++ {
			if err := each(p, rec); err != nil {
				return fmt.Errorf("recovering the notes in slot %d: %w", s, err)
			}
		}
	}
	return nil
}

// growNotes doubles the note table. Only recovery needs it: it may find dead
// copies beside the living notes.
func (l *Log) growNotes() (NoteID, bool) {
	old := len(l.notes)
	grown := min(2*old, maxNotes)
	if grown == old {
		return 0, false
	}
	l.notes = append(l.notes, make([]noteState, grown-old)...)
	for i := grown - 1; i >= old; i-- {
		l.notes[i].next = l.noteFree
		l.noteFree = NoteID(i) + 1
	}
	return l.NewNote(true)
}

// Incomplete reports what the members that were read could not tell. Rows may
// have been answered, but cannot be decoded. Unnamed are those of their pages
// of which not even the number is known: older versions of them may have been
// recovered, so do not go on without the user's word. Notes in such rows that
// cannot be read are unnamed too; the driver counts them.
func (r *Recovery) Incomplete() (rows, unnamed int) { return r.short, r.unnamed }

// Finish ends the recovery. It reports how many rows were dropped because
// they were never answered.
func (r *Recovery) Finish() (torn int) {
	for _, n := range r.notes {
		r.l.kill(n.slot)
	}
	r.trust()
	r.seqs = nil
	return r.torn
}

// StartSeq makes sure that the next batch is numbered above s. The driver
// gives FirstSeq of its lease, so that it lies above everything that an earlier
// client can have written, seen or not.
func (l *Log) StartSeq(s Seq) { l.seq = max(l.seq, s) }
