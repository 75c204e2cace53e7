package raid

import (
	"fmt"
	"math/bits"
)

// Log is the translator of volumes that write rows once: the page map, its
// reverse, the state of every row, the allocator and the cleaner's policy.
//
// It is state and policy only. The driver (package client) calls it under one
// lock, does the I/O between the calls and reports how it ended:
//
//	Reserve -> write all members -> Commit, or Abandon and Reserve again
//	Lookup  -> read one member, or Survivors -> read K and reconstruct
//	Victims -> read live pages -> Reserve -> write -> Commit as moves
//
// A row is in one of five states:
//
//	free      bit set in its group's bitmap
//	reserved  handed out by Reserve; neither free nor live
//	in use    live > 0. It is immutable (I3)
//	limbo     live = 0, but reads that started before may still be aimed at
//	          it; free after the second Advance that finds none of them
//	doomed    its old headers must be erased before it is free (log_erase.go)
//
// The first viewRows rows of a group are none of these: they hold its view
// (log_view.go).
//
// A Log is closed until Begin: what a recovery found is settled first.
//
// A Log is not safe for concurrent use.
type Log struct {
	g         Geometry
	pages     uint64
	nrows     uint32 // rows of a group = slots of a chunk
	minAck    int
	volume    uint32 // Site.Volume of its headers
	opened    bool   // Begin was called
	holding   bool   // what dies is held until Begin (bury)
	sweepDue  bool   // some of what is held may be free
	recovered bool   // by a Recovery
	guarded   bool   // see GuardThin
	fill      uint64 // percent; 0: no target
	reserve   uint64 // rows that only moves may take, so that the cleaner can always go on

	fwd  []entry  // page -> where it is
	rev  []back   // data slot -> what was written there; first slot of a limbo row: next limbo row + 1
	tag  []uint32 // row -> TagOf the Seq that wrote it; every read checks it
	live []uint8  // row -> data slots that the map points at; > 0: in use

	groups   []logGroup
	hand     int               // group that is asked first for the next batch
	free     uint64            // free rows of all writable groups
	used     uint64            // rows in use
	doomed   uint64            // rows that wait to be erased
	erasing  uint64            // rows between TakeDoomed and Erased
	viewDue  bool              // a group may want another view
	viewHand int               // group that was looked at last for that
	voids    uint64            // rows that were given up and may still come back
	unsure   uint64            // rows in use that are moved or filled before Begin
	sentTo   map[uint32]uint32 // of these: whom they were sent to, where they may be filled
	unheard  map[uint32]uint32 // of these: members whose page might be damaged, since it could not be read
	spared   map[uint32]bool   // rows that were among them, and are neither moved nor filled for lack of room

	notes    []noteState
	noteFree NoteID // head of the list of free notes + 1
	notesUse int
	noteMax  int // the most notes; a recovery may find more
	noteHand int // entry where the next hunt for sparse notes starts

	limbo [2]limboList // rows that died in the current [0] and the previous [1] read epoch
	held  []uint32     // rows that died and stay in limbo until Begin, or until what replaced them lasts
	seq   Seq          // last handed out

	mapped uint64 // pages with a stored entry
	filled uint64 // pages with a filled entry
}

// logGroup is one group as the allocator sees it.
type logGroup struct {
	id    GroupID
	free  []uint64 // bitmap of free rows
	nfree uint32
	hand  uint32 // word of free where the next reservation starts
	scan  uint32 // row where the next hunt for victims starts

	up   uint32 // mask of members with a session: can be read and written
	lost uint32 // mask of members that hold nothing any more

	noted   uint32 // mask of members whose absence is noted: see GuardThin
	revoked uint32 // mask of members whose note is about to be taken back, or was

	hist    [MaxData + 1]uint32 // rows in use by number of live slots; [0] stays 0
	used    uint32              // sum of hist
	missed  [MaxData + MaxParity][]uint64
	nmissed [MaxData + MaxParity]uint32 // bits set in missed: rows in use that this member does not have
	tally   missTally                   // of the sets of bits that rows have in missed

	pending []*logPending // at most one a column
	doubt   uint32        // columns whose pending member was vouched for and is down: it may be the member by now

	partial []uint64 // rows in use or in limbo that are erased before they are free
	doomed  []uint64
	ndoomed uint32
	erasing uint32                        // rows between TakeDoomed and Erased
	stale   [MaxData + MaxParity][]uint64 // rows that this member may hold an old header of that matters
	nstale  [MaxData + MaxParity]uint32
	moved   uint32 // counts members that were replaced: what was under way did not meet the new one

	placed  Seq    // last batch
	mark    Seq    // up to where the recovery found the group settled
	outside uint32 // who did not belong to the view that it found,
	trust   Seq    // and up to where those keep nothing that was given up
	window  window
	torn    []uint64 // rows that were given up before Begin: who comes back is to say that they are dead
	void    []uint64 // rows that were given up and are not erased yet: doomed, or being erased
	nvoid   uint32
	unsure  []uint64 // rows in use that are moved before Begin
	nunsure uint32

	view    groupView
	damaged uint32 // members that a recovery found to lack rows, until they have them
}

// noteState is one note page in use, or a free entry of the table.
type noteState struct {
	slot Slot
	live uint32 // pages whose entry names this note; 0: entry is free
	next NoteID // free entry: next free + 1
	open bool   // between NewNote and SealNote: live counts one too many, and slot may not be known yet
}

type limboList struct {
	head uint32 // row + 1, linked through rev
	n    uint32
}

// LogConfig sizes a Log.
type LogConfig struct {
	Geometry Geometry
	Pages    uint64 // of the device
	Groups   int
	Rows     uint32 // rows of every group
	MinAck   int    // least members that a row may be written to; 0: K
	Volume   uint32 // low 32 bits of the VolumeID, which headers carry

	TargetFill int // percent of slots that are live, in rows in use (RowBound); 0: none
}

// ConfigOf gives the sizes of a layout's log.
func ConfigOf(l *Layout) LogConfig {
	return LogConfig{Geometry: l.Geometry, Pages: l.Pages, Groups: len(l.Groups), Rows: l.ChunkSlots, MinAck: l.MinAck, Volume: uint32(l.Volume), TargetFill: l.TargetFill}
}

// NewLog makes the map of an empty volume: every page absent, every row free,
// every member down (SetUp).
func NewLog(c LogConfig) (*Log, error) {
	if err := c.Geometry.Validate(); err != nil {
		return nil, err
	}
	slots := uint64(c.Groups) * uint64(c.Rows) * uint64(c.Geometry.K)
	if c.Pages == 0 || c.Groups < 1 || c.Rows <= viewRows || slots > MaxDataSlots || c.Pages > MaxPages {
		return nil, fmt.Errorf("log of %d pages in %d groups of %d rows: out of range", c.Pages, c.Groups, c.Rows)
	}
	if c.TargetFill < 0 || c.TargetFill > 100 {
		return nil, fmt.Errorf("log with a target fill of %d percent", c.TargetFill)
	}
	if c.MinAck == 0 {
		c.MinAck = c.Geometry.K
	}
	rows := uint64(c.Groups) * uint64(c.Rows)
	l := &Log{
		g: c.Geometry, pages: c.Pages, nrows: c.Rows, minAck: c.MinAck, volume: c.Volume, fill: uint64(c.TargetFill),
		fwd:    make([]entry, c.Pages),
		rev:    make([]back, slots),
		tag:    make([]uint32, rows),
		live:   make([]uint8, rows),
		groups: make([]logGroup, c.Groups),
		notes:  make([]noteState, noteLimit(c.Pages)),
	}
	l.noteMax = len(l.notes)
	usable := rows - viewRows*uint64(c.Groups)
	l.reserve = min(cleanReserve, max(usable/16, min(2, usable/8)))
	words := (int(c.Rows) + 63) / 64
	for i := range l.groups {
		g := &l.groups[i]
		g.id = GroupID(i)
		g.free = make([]uint64, words)
		for r := uint32(viewRows); r < c.Rows; r++ {
			setBit(g.free, r)
		}
		g.nfree = c.Rows - viewRows
		for m := range c.Geometry.Members() {
			// Allocated now, so that the loss of a member allocates nothing.
			g.missed[m] = make([]uint64, words)
			g.stale[m] = make([]uint64, words)
		}
		g.partial, g.doomed = make([]uint64, words), make([]uint64, words)
		g.void, g.unsure = make([]uint64, words), make([]uint64, words)
		g.torn = make([]uint64, words)
	}
	for i := len(l.notes) - 1; i >= 0; i-- {
		l.notes[i].next = l.noteFree
		l.noteFree = NoteID(i) + 1
	}
	return l, nil
}

// FirstSeq is what a client under a lease of this epoch counts from. A recovery
// knows the highest Seq only of the members that it can reach; a write of an
// earlier lease that only an unreachable member has must not look newer when
// that returns. 2^40 batches are 127 days of 100,000 a second; when they are used
// up nothing is written until the volume is attached anew (Exhausted).
func FirstSeq(e Epoch) Seq { return Seq(e) << epochShift }

const epochShift = 40

// Exhausted reports whether the numbers of this lease are used up.
func (l *Log) Exhausted() bool { return l.seq&(1<<epochShift-1) >= 1<<epochShift-1<<10 }

// cleanReserve is how many rows only the cleaner may take: two full batches
// for each of the two that it may have in flight.
const cleanReserve = 2 * 2 * MaxBatchPages

// noteLimit bounds the note table. When it is full same-filled pages are
// stored like any other page, and trims wait for the cleaner (log_notes.go).
func noteLimit(pages uint64) uint64 {
	return min(maxNotes, max(1024, pages/64))
}

func setBit(b []uint64, i uint32)      { b[i>>6] |= 1 << (i & 63) }
func clearBit(b []uint64, i uint32)    { b[i>>6] &^= 1 << (i & 63) }
func hasBit(b []uint64, i uint32) bool { return b[i>>6]&(1<<(i&63)) != 0 }

// EntryKind says where a page is.
type EntryKind uint8

const (
	Absent EntryKind = iota // reads as zeros
	Filled                  // every byte is Fill
	Stored                  // in Slot
)

// Entry is what the map knows of a page.
type Entry struct {
	Kind EntryKind
	Fill byte
	Slot Slot
}

// Lookup finds page p, which must lie inside the volume.
func (l *Log) Lookup(p PageNo) Entry {
	switch e := l.fwd[p]; {
	case e.stored():
		return Entry{Kind: Stored, Slot: e.slot()}
	case e.filled():
		return Entry{Kind: Filled, Fill: e.value()}
	}
	return Entry{}
}

// Place is a data slot in terms of members.
type Place struct {
	Group GroupID
	Index Index // row in the group, slot in every chunk
	Col   Col
	Tag   uint32 // TagOf the Seq in the header of an undamaged, current slot
}

// Place translates a slot.
func (l *Log) Place(s Slot) Place {
	row := uint32(s) / uint32(l.g.K)
	return Place{
		Group: GroupID(row / l.nrows),
		Index: Index(row % l.nrows),
		Col:   Col(uint32(s) % uint32(l.g.K)),
		Tag:   l.tag[row],
	}
}

// TagOf is what Place.Tag compares with in a header. The epoch is mixed in
// (times 2^32 / golden ratio, odd), because counting starts anew in each.
func TagOf(s Seq) uint32 { return uint32(s) + uint32(s>>epochShift)*0x9e3779b1 }

// Site is what the header of row i of group g says of its place.
func (l *Log) Site(g GroupID, i Index) Site { return Site{Volume: l.volume, Group: g, Index: i} }

// rowOf is row for a group that is at hand.
func (l *Log) rowOf(g *logGroup, i uint32) uint32 { return uint32(g.id)*l.nrows + i }

func (l *Log) row(g GroupID, i Index) uint32 { return uint32(g)*l.nrows + uint32(i) }

// Survivors is the mask of members that hold row i of group g and can be read
// now.
func (l *Log) Survivors(g GroupID, i Index) uint32 {
	return l.Holders(g, i) & l.groups[g].up
}

// Holders is the mask of members that hold row i of group g, whether or not
// they can be reached.
func (l *Log) Holders(g GroupID, i Index) uint32 {
	gr := &l.groups[g]
	return (uint32(1)<<l.g.Members() - 1) &^ gr.lost &^ l.missedBy(gr, uint32(i))
}

// FilledCols is the mask of data columns that row i of group g was written
// with. The others count as zeros in the code and were not sent.
func (l *Log) FilledCols(g GroupID, i Index) uint16 {
	first := Slot(l.row(g, i)) * Slot(l.g.K)
	var m uint16
	for c := range l.g.K {
		if l.rev[first+Slot(c)] != backUnfilled {
			m |= 1 << c
		}
	}
	return m
}

// CanDecode reports whether the members in have, with the columns that are
// known to be zeros, are enough to know the whole row.
func (l *Log) CanDecode(have uint32, filled uint16) bool {
	known := have | (uint32(1)<<l.g.K-1)&^uint32(filled)
	return bits.OnesCount32(known) >= l.g.K
}

// NextSeq hands out the number of a new batch. Numbers of batches that touch
// the same page must be drawn in the order in which the pages were accepted.
func (l *Log) NextSeq() Seq {
	l.seq++
	return l.seq
}

// LogStats is a snapshot of the counters.
type LogStats struct {
	Pages, Mapped, Filled           uint64
	Rows, FreeRows, UsedRows, Limbo uint64 // FreeRows: of writable groups
	Doomed                          uint64 // rows that wait to be erased, or are being erased
	Notes                           int
}

// Stats counts.
func (l *Log) Stats() LogStats {
	return LogStats{
		Pages: l.pages, Mapped: l.mapped, Filled: l.filled,
		Rows: uint64(len(l.live)), FreeRows: l.free, UsedRows: l.used,
		Limbo:  uint64(l.limbo[0].n+l.limbo[1].n) + uint64(len(l.held)),
		Doomed: l.Doomed(),
		Notes:  l.notesUse,
	}
}
