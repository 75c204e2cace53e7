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

// Hinders reports whether the header b of a slot at site, whose row is free, may keep the
// next recovery from opening. Of a damaged one, or one that was lost, it cannot tell what the slot held, while
// fewer than K others can be read. Pages of notes it reads, dead or not, and they may be
// damaged by then at more members than a row in use.
func Hinders(b []byte, site Site) bool {
	h, err := ParseHeader(b)
	return err != nil || h.Site != site || h.Kind != KindErased && h.Kind != KindPage && h.Kind != KindParity
}

// Free reports whether row i of group g is free.
func (l *Log) Free(g GroupID, i Index) bool { return hasBit(l.groups[g].free, uint32(i)) }

// DoomFree has row i of group g erased, if it is free.
func (l *Log) DoomFree(g GroupID, i Index) bool {
	if !l.Free(g, i) {
		return false // what is written there replaces it; what is dead was looked at when it was in use
	}
	l.doomFree(&l.groups[g], i)
	return true
}
