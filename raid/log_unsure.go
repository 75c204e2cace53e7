package raid

// A row is unsure that a recovery took in although it may never have been answered: not
// all members have it that it was sent to, or these are not known to. A later recovery
// might judge it otherwise. There are two ways to end that before the log begins:
//
//   - The row is filled where it lies, at those it was sent to (UnsureRows, Restored,
//     Complete). That is as if the client that wrote it had lived a moment longer: the
//     same slots, the same headers, the same number. What lay in those slots was dead
//     before that client could take the row. So whoever recovers next, also in the
//     middle of this, finds what it might have found before. It needs no room.
//   - Its pages are moved to rows of this client (UnsureVictims), where some that it was
//     sent to are away, or cannot be filled.
//
// A view of this client may need members that are damaged. They are given all that they
// miss (MissingRows) when nothing else gets on: it may be much, and the log begins
// without where it can.

// sendTo notes whom an unsure row was sent to, and who could not be read and is to have it
// too, so that its slot says nothing against it. Rows that were found with the help of
// members that are not believed are moved: those would have to be told apart.
func (l *Log) sendTo(g *logGroup, i Index, sent uint32) {
	if l.sentTo == nil {
		l.sentTo = make(map[uint32]uint32)
	}
	l.sentTo[l.row(g.id, i)] = sent
}

// doubt notes whose page of an unsure row might be damaged.
func (l *Log) doubt(g *logGroup, i Index, unheard uint32) {
	if l.unheard == nil {
		l.unheard = make(map[uint32]uint32)
	}
	l.unheard[l.row(g.id, i)] = unheard
}

// UnsureRows is MissingRows for unsure rows, and members that these were sent to.
func (l *Log) UnsureRows(g GroupID, c Col, start Index, dst []MissingRow) ([]MissingRow, Index) {
	gr := &l.groups[g]
	i := start
	for ; gr.nunsure > 0 && uint32(i) < l.nrows && len(dst) < cap(dst); i++ {
		if !hasBit(gr.unsure, uint32(i)) || !hasBit(gr.missed[c], uint32(i)) || l.sentTo[l.row(g, i)]&(1<<c) == 0 {
			continue
		}
		if filled, have := l.FilledCols(g, i), l.Survivors(g, i); l.CanDecode(have, filled) {
			dst = append(dst, MissingRow{Index: i, Tag: l.tag[l.row(g, i)], Filled: filled, Have: have})
		}
	}
	if gr.nunsure == 0 {
		i = Index(l.nrows)
	}
	return dst, i
}

// Complete takes rows out of those that are unsure that are by now at all members that
// they were sent to, as a row that was answered: who is away and comes back shows
// whether it has them before it counts. The condition is that of the recovery for rows
// that it found like that.
func (l *Log) Complete() {
	for row, sent := range l.sentTo {
		g, i := &l.groups[row/l.nrows], Index(row%l.nrows)
		have := l.Survivors(g.id, i)
		if hasBit(g.unsure, uint32(i)) && sent&^have == 0 && l.durable(g, sent&have&g.view.members) {
			l.unsureDied(g, i)
		}
	}
}

// UnsureVictims appends the live slots of up to 32 rows to dst that not all members
// are known to have that they were sent to, and that are moved before Begin: a later
// recovery might judge them otherwise. It gives nothing while none can be decoded.
func (l *Log) UnsureVictims(dst []Slot) []Slot {
	for i := range l.groups {
		g := &l.groups[i]
		if g.nunsure == 0 || popcount(g.up&^g.lost) < l.g.K {
			continue
		}
		got, rows := l.hunt(i, dst, MaxBatchPages, func(row uint32) bool { return hasBit(g.unsure, row%l.nrows) })
		if rows > 0 {
			return got
		}
	}
	return dst
}

// SpareUnsure gives up moving rows, for lack of room, that a later recovery finds all
// the same, since more than M members are known to have them. Who was sent nothing of a
// row does not know of it. One that cannot be decoded without pages that nobody could read
// (Recovery.Unheard) is not spared: if it was never answered, the next recovery finds what it
// would replace. What such rows replace stays until the log begins: a client that was replaced
// may erase them where this one does not see it.
func (l *Log) SpareUnsure() {
	for i := range l.groups {
		g := &l.groups[i]
		for r := Index(0); g.nunsure > 0 && uint32(r) < l.nrows; r++ {
			if !hasBit(g.unsure, uint32(r)) {
				continue
			}
			have, filled := l.Survivors(g.id, r), l.FilledCols(g.id, r)
			if know := have &^ l.unfilledIn(filled); l.durable(g, know&g.view.members) && l.CanDecode(have&^l.unheard[l.row(g.id, r)], filled) {
				l.unsureDied(g, r)
				if l.spared == nil {
					l.spared = make(map[uint32]bool)
				}
				l.spared[l.row(g.id, r)] = true
			}
		}
	}
}

// unsureDied takes row i out of those that are unsure.
func (l *Log) unsureDied(g *logGroup, i Index) {
	if g.nunsure != 0 && hasBit(g.unsure, uint32(i)) {
		clearBit(g.unsure, uint32(i))
		delete(l.sentTo, l.row(g.id, i))
		delete(l.unheard, l.row(g.id, i))
		g.nunsure--
		l.unsure--
		l.viewDue, l.sweepDue = true, l.holding
	}
}
