package raid

// UsedRow is a row in use, as it has to lie in its members.
type UsedRow struct {
	Index   Index
	Tag     uint32 // of the batch that wrote it
	Filled  uint16 // data columns that hold anything
	Holders uint32 // members that hold it, whether or not they can be reached
}

// UsedRows appends rows in use of group g from row start on, until dst is
// full, and returns where to go on: at the rows of a group when it has seen
// all. While somebody looks at their slots they have to count as being read
// (Advance).
func (l *Log) UsedRows(g GroupID, start Index, dst []UsedRow) ([]UsedRow, Index) {
	i := start
	for ; uint32(i) < l.nrows && len(dst) < cap(dst); i++ {
		row := l.row(g, i)
		if l.live[row] == 0 {
			continue
		}
		dst = append(dst, UsedRow{Index: i, Tag: l.tag[row], Filled: l.FilledCols(g, i), Holders: l.Holders(g, i)})
	}
	return dst, i
}

// InUse reports whether row i of group g is in use and still the one that was
// written with this tag.
func (l *Log) InUse(g GroupID, i Index, tag uint32) bool {
	row := l.row(g, i)
	return l.live[row] > 0 && l.tag[row] == tag
}
