package raid

// Replace says that column c of group g has another member, an empty chunk:
// it has none of the rows in use, and gets every row that is written from the
// next SetUp on. The rows that it misses are filled one by one (Restored), or
// moved by HealVictims.
func (l *Log) Replace(g GroupID, c Col) {
	gr := &l.groups[g]
	l.setMask(g, func(gr *logGroup) {
		gr.up &^= 1 << c
		gr.lost &^= 1 << c
		gr.leaveView(c)
		gr.moved++
	})
	l.ForgetStale(g, c)
	for i := range Index(l.nrows) {
		if l.live[l.row(g, i)] > 0 {
			l.miss(gr, uint32(i), l.missedBy(gr, uint32(i))|1<<c)
		}
	}
}

// Missing counts the rows in use that column c of group g does not have.
func (l *Log) Missing(g GroupID, c Col) int { return int(l.groups[g].nmissed[c]) }

// MissingRow is a row that a member has to be given.
type MissingRow struct {
	Index  Index
	Tag    uint32 // of the batch that wrote it
	Filled uint16 // data columns that hold anything
	Have   uint32 // members that hold it and are up
}

// MissingRows appends rows in use that column c of group g does not have and
// that can be decoded from members that are up, from row start on, until dst
// is full. It returns where to go on: l's rows when it has seen all.
//
// From now until Restored the rows count as being read (Advance): else one of
// them could be reused while its old content is on its way.
func (l *Log) MissingRows(g GroupID, c Col, start Index, dst []MissingRow) ([]MissingRow, Index) {
	gr := &l.groups[g]
	i := start
	for ; uint32(i) < l.nrows && len(dst) < cap(dst); i++ {
		if gr.nmissed[c] == 0 {
			return dst, Index(l.nrows)
		}
		if !hasBit(gr.missed[c], uint32(i)) {
			continue
		}
		filled := l.FilledCols(g, i)
		if int(c) < l.g.K && filled&(1<<c) == 0 {
			// Nothing was ever there: it has it already.
			l.clearMissed(g, i, c)
			continue
		}
		have := l.Survivors(g, i)
		if !l.CanDecode(have, filled) {
			continue
		}
		dst = append(dst, MissingRow{Index: i, Tag: l.tag[l.row(g, i)], Filled: filled, Have: have})
	}
	return dst, i
}

// Restored says that column c of group g has been given the row as
// MissingRows described it. A row that died meanwhile is of no concern.
func (l *Log) Restored(g GroupID, c Col, r MissingRow) {
	row := l.row(g, r.Index)
	if l.live[row] == 0 || l.tag[row] != r.Tag {
		return
	}
	l.clearMissed(g, r.Index, c)
	l.setStale(&l.groups[g], c, r.Index, false)
}

func (l *Log) clearMissed(g GroupID, i Index, c Col) {
	gr := &l.groups[g]
	l.miss(gr, uint32(i), l.missedBy(gr, uint32(i))&^(1<<c))
}

// UpMembers is the mask of members of group g that can be read and written.
func (l *Log) UpMembers(g GroupID) uint32 { return l.groups[g].up &^ l.groups[g].lost }
