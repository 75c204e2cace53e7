package raid

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// Recovery rebuilds the map of a volume from the slot headers, which lie
// beside the pages in the servers' memory. The driver tells the log the view of
// each group (SetView), reads the headers of the members that are in it and can
// be reached, and gives them in, row by row, then the notes, then calls Finish.
//
// Which rows count. One that an erased slot says to be dead does not, whoever shows it.
// A row that is not above the number up to which its group is
// settled was answered, or taken in by an earlier recovery: it counts, whoever
// lacks it, and who should have it and does not is damaged. When it cannot be
// decoded its pages answer EIO, unless their own member has them, until members
// return. To drop it would bring back older versions.
//
// Above that number nobody knows whether a row was answered, and either will do,
// as long as it stays so. One that can be decoded counts. Unless all members that it was
// sent to have it, and all members could be read, the driver fills or moves it before the log begins (log_unsure.go), so
// that the next recovery finds it too, and so that who lacks a settled row shows damage. One that cannot be decoded was never
// answered when a member that it was sent to can be read and does not have it: it
// is dropped, and erased before the log begins. What remains cannot be decided
// without members that are away (Incomplete). Pages of rows that some lack are read
// first: a damaged one may be one too few (Unproved).
//
// The decision lasts: the view that the log begins with says that everything up
// to now is settled. Until then no page is served, and no row is written over that
// a row above the mark replaces.
//
// Of all rows that hold a page the one with the highest Seq counts; a note's
// record counts with its own Seq. A page that was trimmed reads as zeros once
// the trim was answered.
type Recovery struct {
	l    *Log
	seqs []Seq // page -> Seq of the entry; dropped by Finish

	mark   []Seq       // group -> up to where it is settled, as far as is known
	late   [][]lateRow // group -> rows above that
	damage []damagedRow
	torn   []tornRow
	notes  []recoveredNote

	judged bool
	state  Incomplete
	void   int
}

// Incomplete is what a recovery could not tell from the members that were read.
type Incomplete struct {
	Undecodable int // rows that may have been answered, but cannot be decoded: EIO until members return
	Unnamed     int // pages of such rows of which not even the number is known, and notes that cannot be read (Unreadable)
	Doubtful    int // rows that were perhaps answered: whether they were only members tell that are away
	Overrun     int // rows beyond what a client can have had under way that would be dropped
	Foreign     int // rows with headers of another version of dmps
}

// Loss reports whether older versions of pages may be served, or pages be zeros
// that are not: do not go on without the user's word.
func (i Incomplete) Loss() bool { return i.Unnamed+i.Doubtful+i.Overrun > 0 }

type lateRow struct {
	index Index
	h     RowHeaders
}

// damagedRow is a row that these members should have, and do not.
type damagedRow struct {
	group GroupID
	index Index
	lacks uint32
}

// lateRows is how many rows above the mark are kept before it is tried again
// whether they still are.
const lateRows = 4 * windowBatches * MaxBatchPages

// NewRecovery starts the recovery of an empty log whose members' states are
// set already.
func NewRecovery(l *Log) *Recovery {
	if l.used != 0 || l.mapped != 0 || l.filled != 0 || l.opened {
		panic("raid: recovery into a log that is in use")
	}
	l.recovered = true
	return &Recovery{l: l, seqs: make([]Seq, l.pages), mark: make([]Seq, len(l.groups)), late: make([][]lateRow, len(l.groups))}
}

// RowHeaders is what the headers of one row say.
type RowHeaders struct {
	newest  Header
	settled Seq    // highest that a sound header says
	avail   uint32 // members whose header was read, and who should have the row if it is in use
	ok      uint32 // of them, those with a sound header that is not empty
	broken  uint32 // those whose header is damaged, lost, or of another place
	erased  Seq    // highest up to which an erased slot says that all is dead
	said    uint32 // whose slots say so
	denied  Seq    // likewise, of any member, believed or not
	torn    Seq    // erased, when not all slots are known to say as much, and none that was read holds what is newer
	have    uint32 // those whose header is of the newest Seq, and others that have that row
	lent    uint32 // of these, those that are not believed by themselves
	outside uint32 // members with a sound header that do not belong to the view, and are not being rebuilt
	apart   Header // the newest of a row that only members have which are not believed it; Seq 0: none
	apartOf uint32 // who they are
	stale   uint32 // those that have an older one, which names fewer than all members
	foreign bool   // a header is of another version of dmps
	unread  uint32 // members that could not be read: a client that was replaced may have erased the row there since
	unheard uint32 // of those that have the row by their headers, who did not give its page when it was to be proved

	known   uint16 // data columns whose entry is known
	entries [MaxData]RowEntry
}

// Witnesses says who of a group is believed what (RowHeaders.Parse).
type Witnesses struct {
	View    uint32 // who belongs to its view
	Filling uint32 // who is being rebuilt
	Record  uint32 // who holds the record of the view
	Trust   Seq    // up to where those out of the view are believed
}

// Witnesses says whom a recovery of group g believes, after SetView or AcceptView.
func (l *Log) Witnesses(g GroupID) Witnesses {
	v := &l.groups[g].view
	return Witnesses{View: v.members, Filling: v.filling, Record: v.copies, Trust: v.trust}
}

// Parse takes the headers of the row at site: headers[c] is that of member c, or
// nil when the member cannot be read. Members that do not belong to the group's view
// are believed what they say of batches up to w.Trust, and never what they do not say. What
// they have of later batches is of use when those who are believed have the same row.
// Nor are those believed what they do not say which are being rebuilt. That a row is dead they
// are believed when they hold the record of the view: they were compared with the map before
// they were given it. It is the part of a recovery that needs no Log, and so can run side by side.
func (h *RowHeaders) Parse(g Geometry, site Site, headers [][]byte, w Witnesses) {
	*h = RowHeaders{}
	var (
		all    [MaxData + MaxParity]Header
		thin   uint32
		others uint32
	)
	for c, b := range headers {
		if b == nil {
			h.unread |= 1 << c
			continue
		}
		p, err := ParseHeader(b)
		in := w.View&(1<<c) != 0
		if !in && w.Filling&(1<<c) == 0 && err == nil && p.Site == site {
			h.outside |= 1 << c
		}
		if err == nil && p.Kind == KindErased && p.Site == site {
			h.denied = max(h.denied, p.Seq)
		}
		switch {
		case in && w.Filling&(1<<c) == 0:
			h.avail |= 1 << c
		case err == nil && p.Kind == KindErased && w.View&w.Record&(1<<c) != 0:
		case err != nil || !p.Holds():
			continue
		case !in && p.Seq > w.Trust:
			if p.Kind != KindFill {
				others |= 1 << c
				all[c] = p
			}
			continue
		}
		switch {
		case err != nil:
			h.broken |= 1 << c
			h.foreign = h.foreign || errors.Is(err, ErrHeaderFormat)
			continue
		case p.Kind == KindErased && p.Site == site:
			h.saysDead(c, p.Seq)
			continue
		case p.Site != site || p.Kind != KindPage && p.Kind != KindNotes && p.Kind != KindParity:
			h.broken |= 1 << c
			continue
		}
		h.ok |= 1 << c
		h.settled = max(h.settled, p.Settled)
		all[c] = p
		if p.Members != uint32(1)<<g.Members()-1 {
			thin |= 1 << c
		}
		if p.Seq > h.newest.Seq {
			h.newest = p
		}
	}
	for c := range headers {
		switch {
		case others&(1<<c) != 0 && h.ok != 0 && all[c].SameRow(&h.newest):
			h.have |= 1 << c
			h.lent |= 1 << c
		case h.ok&(1<<c) == 0 || all[c].Seq != h.newest.Seq:
		case all[c].SameRow(&h.newest):
			h.have |= 1 << c
		default:
			h.broken |= 1 << c
		}
	}
	h.stale = h.ok &^ h.have & thin
	if h.newest.Seq <= h.erased && h.avail&^h.said|h.unread != 0 {
		h.torn = h.erased
	}
	h.setApart(others, site, &all)
	for c := range g.K {
		if h.newest.Filled&(1<<c) != 0 {
			h.column(g, c, headers)
		}
	}
}

// saysDead notes that the slot of member c, which is believed, says that all is dead up to seq.
func (h *RowHeaders) saysDead(c int, seq Seq) {
	if seq > h.erased {
		h.erased, h.said = seq, 0
	}
	if seq == h.erased {
		h.said |= 1 << c
	}
}

// setApart finds the row that only members have which are not believed it, among others.
func (h *RowHeaders) setApart(others uint32, site Site, all *[MaxData + MaxParity]Header) {
	for m := others &^ h.lent; m != 0; m &= m - 1 {
		if p := &all[bits.TrailingZeros32(m)]; p.Site == site && p.Seq > max(h.newest.Seq, h.apart.Seq) {
			h.apart = *p
		}
	}
	for m := others; h.apart.Seq != 0 && m != 0; m &= m - 1 {
		if c := bits.TrailingZeros32(m); all[c].SameRow(&h.apart) {
			h.apartOf |= 1 << c
		}
	}
}

// column finds what data column c of the row holds: from its own member, else
// from any parity member's table.
func (h *RowHeaders) column(g Geometry, c int, headers [][]byte) {
	from := h.have & (1<<c | 1<<g.Members() - 1<<g.K)
	if from == 0 {
		return
	}
	h.known |= 1 << c
	if m := bits.TrailingZeros32(from); m == c || g.Mirror() {
		h.entries[c] = entryOf(headers[m])
	} else {
		h.entries[c] = ParseRowEntry(headers[m], c)
	}
}

// Row takes the headers of one row. Rows must be given in any order, each once.
func (r *Recovery) Row(g GroupID, i Index, headers [][]byte) error {
	if len(headers) != r.l.g.Members() {
		return fmt.Errorf("recovering row %d of group %d: %d headers for %d members", i, g, len(headers), r.l.g.Members())
	}
	var h RowHeaders
	h.Parse(r.l.g, r.l.Site(g, i), headers, r.l.Witnesses(g))
	r.Parsed(g, i, &h)
	return nil
}

// Parsed is Row for headers that h has parsed.
func (r *Recovery) Parsed(g GroupID, i Index, h *RowHeaders) {
	if i < viewRows {
		return
	}
	if h.foreign {
		r.state.Foreign++
	}
	r.mark[g] = max(r.mark[g], h.settled, r.l.groups[g].view.settled)
	r.l.seq = max(r.l.seq, h.erased)
	if h.apart.Seq != 0 && !r.neverAnswered(&r.l.groups[g], h) {
		r.state.Doubtful++
	}
	if h.torn > r.mark[g] {
		r.torn = append(r.torn, tornRow{g, i, h.torn})
		if n := len(r.torn); n >= lateRows && n&(n-1) == 0 {
			r.torn = slices.DeleteFunc(r.torn, func(t tornRow) bool { return t.seq <= r.mark[t.group] })
		}
	}
	if h.ok == 0 {
		r.nothing(g, i, h)
		return
	}
	r.l.seq = max(r.l.seq, h.newest.Seq)
	if h.newest.Seq <= r.mark[g] {
		r.settled(g, i, h)
		return
	}
	r.late[g] = append(r.late[g], lateRow{i, *h})
	if n := len(r.late[g]); n >= lateRows && n&(n-1) == 0 {
		r.retry(g)
	}
}

// neverAnswered reports whether the row that only members have which are not believed
// it was given up, or is dead: it was erased, or a member that it was sent to does not have
// it, or one that had every row in use. Who had it besides may be gone, or be another chunk by now.
// A row below the view that was sent to none of its members was answered before the view was
// made, if at all.
func (r *Recovery) neverAnswered(gr *logGroup, h *RowHeaders) bool {
	if h.apart.Seq <= h.erased {
		return true
	}
	sent := h.apart.Members &^ r.l.unfilledIn(h.apart.Filled)
	lacks := (h.avail | h.outside) &^ h.broken &^ h.apartOf &^ gr.view.blank
	if lacks&sent != 0 {
		return true
	}
	before := h.apart.Seq <= gr.view.settled || h.apart.Seq < gr.view.seq && h.apart.Members&gr.view.members == 0
	return before && lacks&h.avail&gr.view.whole&^r.l.unfilledIn(h.apart.Filled) != 0
}

// nothing takes a row of which no sound header is left. What was damaged may have
// been answered when not enough others tell that it was not, in the view or not: more
// than M of all were sent it, or more than M of the view. If the client goes on it
// is erased, so that it raises no doubt the next time.
func (r *Recovery) nothing(g GroupID, i Index, h *RowHeaders) {
	if h.broken == 0 {
		return
	}
	if popcount((h.avail|h.outside)&^h.broken&^r.l.groups[g].view.blank) < r.l.g.K {
		r.state.Doubtful++
	}
	r.l.unfree(&r.l.groups[g], i)
	r.l.doom(&r.l.groups[g], i)
}

// retry takes the rows of g that are not above the mark after all.
func (r *Recovery) retry(g GroupID) {
	kept := r.late[g][:0]
	for k := range r.late[g] {
		o := &r.late[g][k]
		if o.h.newest.Seq <= r.mark[g] {
			r.settled(g, o.index, &o.h)
		} else {
			kept = append(kept, *o)
		}
	}
	r.late[g] = kept
}

// sent is the mask of members that the row was sent to, by what its header says.
// Data columns that it does not fill were not sent.
func (r *Recovery) sent(h *RowHeaders) uint32 {
	return h.newest.Members &^ r.l.unfilledIn(h.newest.Filled)
}

// unfilledIn is the mask of data columns that a row does not fill.
func (l *Log) unfilledIn(filled uint16) uint32 { return (uint32(1)<<l.g.K - 1) &^ uint32(filled) }

// dead reports whether a row that is settled and cannot be decoded is dead, so that its
// pages are answered otherwise: a member does not have it that had every row in use when
// the view was made; or, of rows since, one of all, which were sent it. Zeros where a slot
// should be are no such word, but memory that was lost.
func (r *Recovery) dead(gr *logGroup, h *RowHeaders) bool {
	lacks := h.avail &^ h.broken &^ h.have &^ gr.view.blank &^ r.l.unfilledIn(h.newest.Filled)
	if h.newest.Seq <= gr.view.settled {
		return lacks&gr.view.whole != 0
	}
	return lacks != 0 && h.newest.Members == r.l.all()
}

func (r *Recovery) settled(g GroupID, i Index, h *RowHeaders) {
	if h.newest.Seq <= h.erased || !r.l.CanDecode(h.have, h.newest.Filled) && r.dead(&r.l.groups[g], h) {
		// What is left of it is erased: it might not be told the next time.
		r.l.unfree(&r.l.groups[g], i)
		r.l.doom(&r.l.groups[g], i)
		return
	}
	if lacks := h.avail & r.sent(h) &^ h.have; lacks != 0 {
		r.damage = append(r.damage, damagedRow{g, i, lacks})
	}
	r.adopt(g, i, h)
}

// judge decides about the rows that are above their group's mark, when all have
// been given in: first those that all have that they were sent to. What is dead without
// the others is free before, so that there is room to move to.
func (r *Recovery) judge() {
	if r.judged {
		return
	}
	r.judged = true
	for g := range r.late {
		r.retry(GroupID(g))
		gr := &r.l.groups[g]
		gr.mark, gr.trust, gr.outside = r.mark[g], min(r.mark[g], gr.view.trust), r.l.all()&^gr.view.members
		r.late[g] = slices.DeleteFunc(r.late[g], func(o lateRow) bool {
			return o.h.newest.Seq <= o.h.erased // it is dead, and may be torn
		})
	}
	r.makeRoom()
	for g := range r.late {
		r.late[g] = slices.DeleteFunc(r.late[g], func(o lateRow) bool {
			have := o.h.have &^ o.h.lent
			whole := o.h.unread&^r.l.groups[g].lost == 0 && o.h.newest.Seq > o.h.denied && r.sent(&o.h)&^have == 0 && r.l.durable(&r.l.groups[g], have&r.l.groups[g].view.members)
			if whole {
				r.adopt(GroupID(g), o.index, &o.h) // as if it had been answered
			}
			return whole
		})
	}
	r.makeRoom()
	r.eraseTorn()
	r.l.holding = true
	for g := range r.late {
		void := 0
		for k := range r.late[g] {
			o := &r.late[g][k]
			if !r.unsettled(GroupID(g), o.index, &o.h) {
				void++
			}
		}
		r.void += void
		r.state.Overrun += max(0, void-windowBatches*MaxBatchPages)
	}
	r.late = nil
}

// makeRoom frees the rows that are dead by what was taken in so far, which lasts.
func (r *Recovery) makeRoom() {
	r.l.advance()
	r.l.advance()
}

// lacks is the mask of members that say that the row was never answered: they were sent
// it, and do not have it. Who is out of the view had to have it too. Who holds no record
// of a view has forgotten that, and then it may have forgotten the row too.
func (r *Recovery) lacks(gr *logGroup, h *RowHeaders) uint32 {
	return (h.avail | h.outside) & r.sent(h) &^ h.broken &^ h.have &^ gr.view.blank
}

// unsettled decides about a row that some lack; false: it was never answered.
func (r *Recovery) unsettled(g GroupID, i Index, h *RowHeaders) bool {
	l := r.l
	gr := &l.groups[g]
	decodable := l.CanDecode(h.have, h.newest.Filled)
	if r.lacks(gr, h) != 0 && !decodable {
		l.unfree(gr, i)
		l.giveUp(gr, i)
		return false
	}
	r.adopt(g, i, h)
	switch {
	case !decodable:
		r.state.Doubtful++
	case l.live[l.row(g, i)] > 0:
		setBit(gr.unsure, uint32(i))
		gr.nunsure++
		l.unsure++
		if h.unheard != 0 {
			l.doubt(gr, i, h.unheard)
		}
		if r.sent(h)&h.lent == 0 && h.newest.Seq > h.denied {
			l.sendTo(gr, i, r.sent(h)|h.unread&^gr.lost)
		}
	}
	return true
}

// adopt takes a row in use for as long as one of its pages is the newest
// version.
func (r *Recovery) adopt(g GroupID, i Index, h *RowHeaders) {
	l := r.l
	gr := &l.groups[g]
	row := l.row(g, i)
	for m := h.stale; m != 0; m &= m - 1 {
		l.setStale(gr, Col(bits.TrailingZeros32(m)), i, true) // was out when that row was erased
	}
	if !l.CanDecode(h.have, h.newest.Filled) {
		r.state.Undecodable++
	}
	l.unfree(gr, i)
	l.tag[row] = TagOf(h.newest.Seq)
	// Members that could not be read count as having what was sent to them, and
	// are compared with the map when they can.
	l.setMissed(gr, uint32(i), h.have|l.unfilledIn(h.newest.Filled)|r.sent(h)&^h.avail)
	l.written(gr, i, h.newest.Members, h.have)
	l.live[row] = 1
	gr.hist[1]++
	gr.used++
	l.used++
	first := Slot(row) * Slot(l.g.K)
	for c := range l.g.K {
		s := first + Slot(c)
		l.rev[s] = backUnfilled
		if h.newest.Filled&(1<<c) == 0 {
			continue
		}
		if h.known&(1<<c) == 0 {
			r.state.Unnamed++
			l.rev[s] = backDead // for all that is known
			continue
		}
		e := h.entries[c]
		if e.Kind == KindNotes {
			// Its records are read later; until Finish the slot counts as live.
			l.rev[s] = backDead
			l.enliven(row)
			r.notes = append(r.notes, recoveredNote{slot: s, seq: h.newest.Seq, have: h.have, dead: h.newest.Seq <= r.mark[g] && r.dead(gr, h)})
			continue
		}
		if uint64(e.Page) >= l.pages {
			l.rev[s] = backDead
			continue
		}
		l.rev[s] = back(e.Page)
		if r.seqs[e.Page] >= h.newest.Seq {
			continue
		}
		r.seqs[e.Page] = h.newest.Seq
		l.enliven(row)
		l.point(e.Page, storedEntry(s))
	}
	l.kill(first)
}

// Incomplete reports what the members that were read could not tell, once Notes was
// called.
func (r *Recovery) Incomplete() Incomplete { return r.state }

// Finish ends the recovery. It reports how many rows are dropped because they were
// never answered. Before Begin they must be erased (TakeDoomed), what is unsure
// filled or moved (log_unsure.go), and each group have a view (TakeView).
func (r *Recovery) Finish() (void int) {
	r.judge()
	for _, n := range r.notes {
		r.l.kill(n.slot)
	}
	for _, d := range r.damage {
		if r.l.live[r.l.row(d.group, d.index)] > 0 {
			r.l.groups[d.group].damaged |= d.lacks
		}
	}
	r.seqs, r.notes = nil, nil
	return r.void
}

// Damaged calls f for each member with the number of rows in use that it should
// have had and did not.
func (r *Recovery) Damaged(f func(g GroupID, c Col, rows int)) {
	counts := make(map[GroupID]*[MaxData + MaxParity]int)
	for _, d := range r.damage {
		if r.l.live[r.l.row(d.group, d.index)] == 0 {
			continue
		}
		n := counts[d.group]
		if n == nil {
			n = new([MaxData + MaxParity]int)
			counts[d.group] = n
		}
		for m := d.lacks; m != 0; m &= m - 1 {
			n[bits.TrailingZeros32(m)]++
		}
	}
	for g := range r.l.groups {
		if n := counts[GroupID(g)]; n != nil {
			for c, rows := range n {
				if rows > 0 {
					f(GroupID(g), Col(c), rows)
				}
			}
		}
	}
}

// StartSeq makes sure that the next batch is numbered above s. The driver
// gives FirstSeq of its lease, so that it lies above everything that an earlier
// client can have written, seen or not.
func (l *Log) StartSeq(s Seq) { l.seq = max(l.seq, s) }
