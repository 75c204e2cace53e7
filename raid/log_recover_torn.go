package raid

// tornRow is a row that some members only say to be dead up to a number.
type tornRow struct {
	group GroupID
	index Index
	seq   Seq
}

// eraseTorn has rows erased everywhere that were being erased, above what is settled: who
// has forgotten that, and shows again what lay there, must be contradicted by the others.
func (r *Recovery) eraseTorn() {
	for _, t := range r.torn {
		gr := &r.l.groups[t.group]
		switch {
		case t.seq <= r.mark[t.group]:
		case hasBit(gr.free, uint32(t.index)):
			r.l.unfree(gr, t.index)
			r.l.giveUp(gr, t.index)
		case hasBit(gr.doomed, uint32(t.index)) && !hasBit(gr.void, uint32(t.index)):
			setBit(gr.torn, uint32(t.index))
			setBit(gr.void, uint32(t.index))
			gr.nvoid++
			r.l.voids++
		}
	}
	r.torn = nil
}
