package raid

// RowBound is how many rows should be in use at most: those that the live slots
// fill to LogConfig.TargetFill, and one of each group that is just being
// filled. Stored bytes are rows in use x Members x 4 KiB, so this is the
// (K+M)/K x live bytes / target fill of the architecture. Without a target there
// is no bound.
//
// Writers may go beyond it as long as there are free rows, because packing costs
// moves and rows that are left alone die by themselves; a volume that nobody
// writes to is packed down to it (client/tidy.go). Always possible:
// when Victims finds nothing any more each group has less than one row to gain.
func (l *Log) RowBound() uint64 {
	if l.fill == 0 {
		return uint64(len(l.live))
	}
	slots := l.mapped + uint64(l.notesUse)
	per := l.fill * uint64(l.g.K)
	return (slots*100+per-1)/per + uint64(len(l.groups))
}

// Sparse reports whether more rows are in use than RowBound.
func (l *Log) Sparse() bool { return l.used > l.RowBound() }
