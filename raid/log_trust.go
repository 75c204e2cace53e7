package raid

import (
	"cmp"
	"slices"
)

// Rows on trust. A recovery that cannot read a member takes it that the member
// has what was sent to it. For a row that was answered that is so. A batch that
// was in flight when its client died may lack there; taken in, it kills older
// versions of its pages, whose rows are written anew. A later recovery that does
// read the member finds the row never answered and drops it, and then neither
// version is left: even one that was answered, if the batch was a move.
//
// So such rows are moved at once (TrustVictims), to rows whose headers name
// exactly those that have them. Nobody who was not read can contradict these.
//
// Which rows that concerns: in principle every row that an unread member is
// named in, which may be most of a volume. But only a batch that was not settled
// can lack somewhere: one that is in flight, or that was given up, by its client
// or by a recovery, and is not erased yet. Placements in a group come in waves of
// waveBatches, and a wave begins only when the one before the last is settled
// (mayPlace). So the batches that were not settled at a crash are among the last
// two waves of their group. What a recovery sees of a group is a part of what was
// placed there, so they are also among the two waves of the highest Seqs that it
// sees. At most 2 * waveBatches * MaxBatchPages rows of a group are moved, 4 MiB
// of each data column, whatever its size. Seqs cannot be counted instead of
// batches: a group that cannot be written falls behind the others without bound.
//
// A wave is longer than a client has batches in flight, and nobody waits for it
// unless a batch hangs while others of its group come through, or the eraser
// does not; then other groups are written.
const waveBatches = 16

// groupWaves is what is not settled in a group.
type groupWaves struct {
	placed int      // placements of the present wave
	flying [2]int   // placements in flight, by wave modulo 2
	now    uint8    // the present wave, modulo 2
	given  []uint64 // bitmap of rows that were given up and are not erased yet: doomed, or being erased
	ngiven uint32   // bits set in given
}

// mayPlace reports whether a placement in g could be one of the present or of
// the next wave.
func (l *Log) mayPlace(g *logGroup) bool {
	w := &g.waves
	return w.placed < l.wave || w.flying[w.now^1] == 0 && w.ngiven == 0
}

// place counts a placement when mayPlace allows it.
func (l *Log) place(g *logGroup, p *Placement) {
	w := &g.waves
	if w.placed >= l.wave {
		w.placed = 0
		w.now ^= 1
	}
	w.placed++
	w.flying[w.now]++
	p.wave = w.now
}

// placed ends a placement. Rows of one that was given up are settled when they
// are erased.
func (g *logGroup) placed(p *Placement) { g.waves.flying[p.wave]-- }

// giveUp dooms a row, in no other state, whose batch was never answered.
func (l *Log) giveUp(g *logGroup, i Index) {
	setBit(g.waves.given, uint32(i))
	g.waves.ngiven++
	l.doom(g, i)
}

// settled notes that a row was erased.
func (w *groupWaves) settled(i Index) {
	if hasBit(w.given, uint32(i)) {
		clearBit(w.given, uint32(i))
		w.ngiven--
	}
}

// Trusted counts the rows in use that are on trust and are to be moved. Until
// there are none another crash can lose what they hold and what they replaced.
func (l *Log) Trusted() uint64 { return l.trusted }

// TrustVictims appends the live slots of up to 32 rows of one group that are on
// trust to dst. It gives nothing while there is no row to move them to, or none
// of them can be decoded; room tells which.
func (l *Log) TrustVictims(dst []Slot) (got []Slot, room bool) {
	if l.trusted == 0 {
		return dst, true
	}
	for i := range l.groups {
		g := &l.groups[i]
		room = room || g.nfree > 0 && l.writable(g) && l.mayPlace(g)
	}
	if !room {
		return dst, false
	}
	for i := range l.groups {
		g := &l.groups[i]
		if g.ntrusted == 0 || popcount(g.up&^g.lost) < l.g.K {
			continue
		}
		got, rows := l.hunt(i, dst, MaxBatchPages, func(row uint32) bool { return hasBit(g.trusted, row%l.nrows) })
		if rows > 0 {
			return got, true
		}
	}
	return dst, true
}

// distrust ends the trust in row i, which is dead.
func (l *Log) distrust(g *logGroup, i Index) {
	if g.ntrusted != 0 && hasBit(g.trusted, uint32(i)) {
		clearBit(g.trusted, uint32(i))
		g.ntrusted--
		l.trusted--
	}
}

// recentBatch is one of the highest Seqs that a recovery saw in a group.
type recentBatch struct {
	seq  Seq
	rows []Index // of it: those that were taken in on trust
}

// saw keeps the two waves of the highest Seqs that were seen in group g.
func (r *Recovery) saw(g GroupID, seq Seq, i Index, trust bool) {
	list := r.recent[g]
	at, known := slices.BinarySearchFunc(list, seq, func(b recentBatch, s Seq) int { return cmp.Compare(b.seq, s) })
	switch {
	case known:
	case len(list) < 2*r.l.wave:
		list = slices.Insert(list, at, recentBatch{seq: seq})
	case at == 0:
		return // was settled
	default:
		at--
		copy(list, list[1:at+1])
		list[at] = recentBatch{seq: seq}
	}
	if trust {
		list[at].rows = append(list[at].rows, i)
	}
	r.recent[g] = list
}

// trust marks the rows on trust that may never have been answered. A group of
// which rows were dropped is not written before they are erased: they are as old
// as they are, and must not be outrun by another wave.
func (r *Recovery) trust() {
	l := r.l
	for gi := range l.groups {
		g := &l.groups[gi]
		if g.waves.ngiven > 0 {
			g.waves.placed = l.wave
		}
		for _, b := range r.recent[gi] {
			for _, i := range b.rows {
				if l.live[l.row(GroupID(gi), i)] == 0 {
					continue
				}
				setBit(g.trusted, uint32(i))
				g.ntrusted++
				l.trusted++
			}
		}
	}
	r.recent = nil
}
