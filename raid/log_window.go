package raid

// A batch is settled when nothing of it can change any more: it was committed,
// or it was given up and its headers are erased at every member that belongs to
// the group. Every header says up to which number the batches of its group are
// settled (Header.Settled), so that a recovery knows which rows it may judge: of
// those that it finds above that number it must decide whether they were ever
// answered; those below were, and a member that lacks one is damaged.
//
// The window of a group is its batches from the oldest that is not settled on.
// It has room for windowBatches, which is more than a client has in flight, so
// nobody waits for it unless a batch hangs while others of its group come
// through, or the eraser does not; then other groups are written. It bounds what
// a recovery may have to judge: windowBatches * MaxBatchPages rows of a group,
// 4 MiB of each data column.
const windowBatches = 32

type window struct {
	batches [windowBatches]windowBatch // a ring
	head, n int
}

type windowBatch struct {
	seq   Seq
	state batchState
}

type batchState uint8

const (
	batchFlying batchState = iota
	batchVoid              // given up; settled when the group has no void row left
	batchSettled
)

// full reports whether there is no room for another batch.
func (w *window) full() bool { return w.n == windowBatches }

func (w *window) push(seq Seq) {
	w.batches[(w.head+w.n)%windowBatches] = windowBatch{seq: seq}
	w.n++
}

// end ends the flight of a batch.
func (w *window) end(seq Seq, state batchState) {
	for k := range w.n {
		if b := &w.batches[(w.head+k)%windowBatches]; b.seq == seq {
			b.state = state
			return
		}
	}
	panic("raid: a batch ended that is not in its group's window")
}

// settle takes what is settled off the front of the group's window.
func (g *logGroup) settle() {
	w := &g.window
	for w.n > 0 {
		b := &w.batches[w.head]
		if b.state == batchFlying || b.state == batchVoid && g.nvoid > 0 {
			return
		}
		w.head = (w.head + 1) % windowBatches
		w.n--
	}
}

// settled is the number up to which every batch of the group is settled. Until
// Begin that is what the recovery found.
func (l *Log) settled(g *logGroup) Seq {
	switch {
	case !l.opened:
		return g.mark
	case g.window.n > 0:
		return g.window.batches[g.window.head].seq - 1
	}
	return l.seq
}

// mayPlace reports whether a batch of pages, or of moves, may be placed in g.
// Until Begin there are only moves.
func (l *Log) mayPlace(g *logGroup, move bool) bool {
	return !g.window.full() && (l.opened || move)
}

// giveUp dooms a row, in no other state, whose batch was never answered.
func (l *Log) giveUp(g *logGroup, i Index) {
	setBit(g.void, uint32(i))
	g.nvoid++
	l.voids++
	l.viewDue = true
	if !l.opened {
		setBit(g.torn, uint32(i))
	}
	l.doom(g, i)
}

// erasedVoid notes that a row that was given up cannot come back.
func (l *Log) erasedVoid(g *logGroup, i Index) {
	if !hasBit(g.void, uint32(i)) {
		return
	}
	clearBit(g.void, uint32(i))
	l.voids--
	if g.nvoid--; g.nvoid == 0 {
		g.settle()
	}
}

// Sure reports whether nothing that was given up can come back. While it can, a
// page that reads as it should because of that must be stored all the same.
func (l *Log) Sure() bool { return l.voids == 0 }
