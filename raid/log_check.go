package raid

import (
	"errors"
	"fmt"
)

// Check walks all state and reports every invariant that does not hold, at
// once. It is meant for tests and for a volume that is being debugged: it
// reads every word of the map. No batch may be between Reserve and Commit,
// unless reserved counts their rows; those that are being erased do not count.
func (l *Log) Check(reserved int) error {
	var errs []error
	bad := func(format string, a ...any) {
		if len(errs) < 20 {
			errs = append(errs, fmt.Errorf(format, a...))
		}
	}
	// Every page's slot points back at it, every filled page's note exists.
	rows := uint32(len(l.live))
	live := make([]uint8, rows)
	noteLive := make([]uint32, len(l.notes))
	mapped, filled := uint64(0), uint64(0)
	for p, e := range l.fwd {
		switch {
		case e.stored():
			mapped++
			s := e.slot()
			if int(s) >= len(l.rev) {
				bad("page %d: slot %d out of range", p, s)
				continue
			}
			if l.rev[s] != back(p) {
				bad("page %d is in slot %d, which holds %#x", p, s, l.rev[s])
			}
			live[uint32(s)/uint32(l.g.K)]++
		case e.filled():
			filled++
			if int(e.note()) >= len(l.notes) {
				bad("page %d: note %d out of range", p, e.note())
				continue
			}
			noteLive[e.note()]++
		}
	}
	if mapped != l.mapped || filled != l.filled {
		bad("mapped %d filled %d, counted %d and %d", mapped, filled, l.mapped, l.filled)
	}
	inUse := 0
	for n := range l.notes {
		s := &l.notes[n]
		if s.open {
			noteLive[n]++
		}
		if s.live != noteLive[n] {
			bad("note %d has %d pages, counted %d", n, s.live, noteLive[n])
		}
		if s.live == 0 {
			continue
		}
		inUse++
		if s.slot == noSlot {
			if !s.open {
				bad("note %d is sealed, but in no slot", n)
			}
			continue
		}
		if l.rev[s.slot] != backNote|back(n) {
			bad("note %d is in slot %d, which holds %#x", n, s.slot, l.rev[s.slot])
		}
		live[uint32(s.slot)/uint32(l.g.K)]++
	}
	idle := 0
	for n := l.noteFree; n != 0 && idle <= len(l.notes); n = l.notes[n-1].next {
		idle++
	}
	if inUse != l.notesUse || inUse+idle != len(l.notes) {
		bad("%d of %d notes in use, counted %d and %d free", l.notesUse, len(l.notes), inUse, idle)
	}
	// Every row is in exactly one state, and the counters say so.
	limbo := make([]bool, rows)
	for i, q := range l.limbo {
		n := uint32(0)
		for r := q.head; r != 0; r = uint32(l.rev[(r-1)*uint32(l.g.K)]) {
			if r > rows || limbo[r-1] {
				bad("limbo list %d runs in circles or out of range at row %d", i, r)
				break
			}
			limbo[r-1] = true
			n++
		}
		if n != q.n {
			bad("limbo list %d has %d rows, counted %d", i, q.n, n)
		}
	}
	for _, r := range l.held {
		if limbo[r] {
			bad("row %d is in limbo twice", r)
		}
		limbo[r] = true
	}
	free, used, doomed, unsure, voids, held := uint64(0), uint64(0), uint64(0), uint64(0), uint64(0), 0
	for gi := range l.groups {
		g := &l.groups[gi]
		var hist [MaxData + 1]uint32
		var nmissed [MaxData + MaxParity]uint32
		var nstale [MaxData + MaxParity]uint32
		sets := map[uint32]uint32{}
		missing := uint32(0)
		nfree, ndoomed := uint32(0), uint32(0)
		nvoid, nunsure := uint32(0), uint32(0)
		for i := range l.nrows {
			row := l.row(GroupID(gi), Index(i))
			isFree := hasBit(g.free, i)
			if live[row] != l.live[row] {
				bad("row %d has %d live slots, counted %d", row, l.live[row], live[row])
			}
			states := 0
			if isFree {
				states++
				nfree++
			}
			if limbo[row] {
				states++
			}
			if hasBit(g.doomed, i) {
				states++
				ndoomed++
			}
			if l.live[row] > 0 {
				states++
				used++
				hist[min(int(l.live[row]), l.g.K)]++
			}
			switch {
			case states > 1:
				bad("row %d is in several states: free %v limbo %v doomed %v live %d", row, isFree, limbo[row], hasBit(g.doomed, i), l.live[row])
			case i < viewRows:
				if states != 0 {
					bad("row %d of group %d is for the view, and is in use or free", i, gi)
				}
			case states == 0:
				held++
			}
			if mask := l.missedBy(g, i); mask != 0 {
				sets[mask]++
				missing++
			}
			if hasBit(g.partial, i) && l.live[row] == 0 && !limbo[row] {
				bad("row %d is to be erased when it dies, but is neither in use nor in limbo", row)
			}
			if hasBit(g.void, i) {
				nvoid++
				if isFree || limbo[row] || l.live[row] > 0 {
					bad("row %d was given up, but waits to be erased no more", row)
				}
			}
			if hasBit(g.unsure, i) {
				nunsure++
				if l.live[row] == 0 || l.opened {
					bad("row %d is unsure, but not in use, or the log has begun", row)
				}
			}
			for c := range l.g.Members() {
				if hasBit(g.stale[c], i) {
					nstale[c]++
					if isFree && g.up&^g.lost&(1<<c) != 0 {
						bad("row %d is free, but member %d, which is up, may hold an old header of it", row, c)
					}
				}
				if hasBit(g.missed[c], i) {
					nmissed[c]++
					if l.live[row] == 0 {
						bad("row %d is not in use, yet member %d misses it", row, c)
					}
				}
			}
		}
		doomed += uint64(ndoomed)
		unsure += uint64(nunsure)
		voids += uint64(nvoid)
		if nvoid != g.nvoid || nunsure != g.nunsure {
			bad("group %d: void %d unsure %d, counted %d and %d", gi, g.nvoid, g.nunsure, nvoid, nunsure)
		}
		l.checkView(g, bad)
		if ndoomed != g.ndoomed || nstale != g.nstale {
			bad("group %d: doomed %d stale %v, counted %d %v", gi, g.ndoomed, g.nstale, ndoomed, nstale)
		}
		if nfree != g.nfree || hist != g.hist || nmissed != g.nmissed {
			bad("group %d: free %d hist %v missed %v, counted %d %v %v", gi, g.nfree, g.hist, g.nmissed, nfree, hist, nmissed)
		}
		if g.tally.rows != missing {
			bad("group %d: %d rows miss a member, counted %d", gi, missing, g.tally.rows)
		}
		for _, s := range g.tally.sets[:g.tally.n] {
			if !g.tally.blind && sets[s.mask] != s.rows {
				bad("group %d: members %#x miss %d rows, counted %d", gi, s.mask, sets[s.mask], s.rows)
			}
			delete(sets, s.mask)
		}
		if !g.tally.blind && len(sets) > 0 {
			bad("group %d: sets of missing members that are not counted: %v", gi, sets)
		}
		l.checkPending(GroupID(gi), bad)
		if l.writable(g) {
			free += uint64(nfree)
		}
	}
	if unsure != l.unsure || voids != l.voids {
		bad("void %d unsure %d, counted %d and %d", l.voids, l.unsure, voids, unsure)
	}
	if free != l.free || used != l.used || doomed != l.doomed {
		bad("free %d used %d doomed %d, counted %d, %d and %d", l.free, l.used, l.doomed, free, used, doomed)
	}
	if held != reserved+int(l.erasing) {
		bad("%d rows are reserved, expected %d and %d that are being erased", held, reserved, l.erasing)
	}
	return errors.Join(errs...)
}

// checkPending walks the pending members of a group.
func (l *Log) checkPending(gid GroupID, bad func(format string, a ...any)) {
	g := &l.groups[gid]
	var cols, doubt uint32
	for _, p := range g.pending {
		if int(p.col) >= l.g.Members() || cols&(1<<p.col) != 0 {
			bad("group %d: column %d has two pending members, or does not exist", gid, p.col)
		}
		cols |= 1 << p.col
		if p.vouched && !p.up {
			doubt |= 1 << p.col
		}
		n := uint32(0)
		for i := range l.nrows {
			if !hasBit(p.missed, i) {
				continue
			}
			n++
			if l.live[l.row(gid, Index(i))] == 0 {
				bad("row %d of group %d is not in use, yet the pending member %d misses it", i, gid, p.col)
			}
		}
		stale := uint32(0)
		for i := range l.nrows {
			if hasBit(p.stale, i) {
				stale++
				if p.up && hasBit(g.free, i) {
					bad("row %d of group %d is free, but the pending member %d, which is up, may hold an old header of it", i, gid, p.col)
				}
			}
		}
		if stale != p.nstale {
			bad("group %d: the pending member %d may hold %d old headers, counted %d", gid, p.col, p.nstale, stale)
		}
		if n != p.nmissed {
			bad("group %d: the pending member %d misses %d rows, counted %d", gid, p.col, p.nmissed, n)
		}
	}
	if doubt != g.doubt {
		bad("group %d: columns %#b are in doubt, noted %#b", gid, doubt, g.doubt)
	}
}

// checkView looks at who belongs to a group, and at its window.
func (l *Log) checkView(g *logGroup, bad func(format string, a ...any)) {
	v := &g.view
	if v.own && (v.members&^l.all() != 0 || v.copies&^l.all() != 0) {
		bad("group %d: the log has begun with view %+v", g.id, *v)
	}
	w := &g.window
	if w.n > 0 && w.batches[w.head].state == batchSettled {
		bad("group %d: the oldest batch of the window is settled", g.id)
	}
	for k := 1; k < w.n; k++ {
		if w.batches[(w.head+k)%windowBatches].seq <= w.batches[(w.head+k-1)%windowBatches].seq {
			bad("group %d: the window is out of order", g.id)
		}
	}
}
