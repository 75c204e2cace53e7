package raid

import "math/bits"

// The view of a group is the set of members that belong to it: who is in it may
// hold nothing but what the map knows of, dead rows that do not matter, and
// batches that are not settled. A recovery believes only these; what others hold
// is compared with the map before they are used. A member leaves the view when
// it is out and may keep a batch that was given up, or was never read by this
// client; it comes back when that is erased.
//
// The view is stored in the group itself: a header of KindView in one of the
// first viewRows rows, at all members in it that are up, always more than M (or
// with the others noted, GuardThin). So whoever can recover the group at all finds
// it, and a client that was replaced cannot store a row at more than M members
// without one that its successor has in its view, where it is refused.
//
//	TakeView -> the record is written to View.To -> Installed
//
// A record is written over the older one of two, so that the one in force stays
// until its successor is. After a recovery the newest that was found may be at few
// members, since its writer was lost: it is completed first.
const viewRows = 2

type groupView struct {
	members uint32 // who belongs to the group
	copies  uint32 // who is known to hold the record in force
	blank   uint32 // who was read by a recovery and holds no record at all
	filling uint32 // who was being rebuilt then
	seq     Seq    // of the record in force; 0: there is none
	tried   Seq    // of the last record that was begun: above seq while it may lie at some members
	barred  uint32 // members that a record that was begun and is not in force leaves out
	whole   uint32 // who had every row in use up to settled when the record was made
	settled Seq    // in the record in force
	slot    Index  // where it lies
	trust   Seq    // members that do not belong to it keep nothing up to here that was given up
	taken   bool   // between TakeView and Installed
	coming  uint32 // whole in all records that were begun since
	own     bool   // it was made in this life
	renew   bool   // it is to be written anew, because more is settled
}

// View is a record to be written: the header of slot Index of the group's chunks,
// without a page, at each of the members in To and each pending member in Second.
type View struct {
	Group   GroupID
	Index   Index
	Seq     Seq
	Settled Seq
	Trust   Seq // what the other members hold up to here is good
	Members uint32
	Whole   uint32 // who has every row in use up to Settled
	To      uint32
	Second  uint32

	moved uint32 // logGroup.moved when it was taken
}

// ViewHeader is the record as it is stored.
func (l *Log) ViewHeader(v *View) Header {
	return Header{Kind: KindView, Members: v.Members, CRC: v.Whole, Page: PageNo(v.Trust), Seq: v.Seq, Settled: v.Settled, Site: l.Site(v.Group, v.Index)}
}

// in is the mask of members that rows are written to: those that any record that the
// next client may find has in its view, and those that their pending members' doubt
// keeps out of it, which headers do not name.
func (g *logGroup) in() uint32 { return g.up &^ g.lost & (g.view.members&^g.view.barred | g.doubt) }

// durable reports whether what these members of g have survives as much as rows
// have to: more than M of them have it, or the others are noted.
func (l *Log) durable(g *logGroup, members uint32) bool {
	switch {
	case bits.OnesCount32(members) > l.g.M:
		return true
	case l.g.K > l.g.M || members == 0:
		return false
	}
	// Of those who have it, some must be believed themselves.
	return !l.guarded || l.absent(members)&^g.noted == 0 && popcount(members&^g.noted&^g.revoked) >= l.g.K
}

// wanted is the view that g should have. While there are void rows it is without
// members that may keep some: those that are out, and columns in doubt. A member
// that does not hold what it should is out of it until it does: a recovery that
// could read only such members would not see what they have lost.
func (l *Log) wanted(g *logGroup) uint32 {
	want := g.up &^ g.lost & g.view.members
	if g.nvoid > 0 {
		want &^= g.doubt
	} else if g.view.own {
		want |= g.view.members &^ g.up &^ g.lost
	}
	for m := g.up &^ g.lost &^ g.view.members &^ g.doubt; m != 0; m &= m - 1 {
		if c := bits.TrailingZeros32(m); !l.staleDead(g, g.stale[c], g.nstale[c]) {
			want |= 1 << c
		}
	}
	rest := want & g.up &^ g.damaged
	if l.g.K <= l.g.M && popcount(rest) <= l.g.M {
		rest &^= g.noted | g.revoked // nobody else can be relied on by few
	}
	if n := popcount(rest); n < l.g.K || l.g.K > l.g.M && n <= l.g.M {
		return want // the others are too few
	}
	return want &^ g.damaged
}

// TakeView gives a record that has to be written, or false. One record of a group
// is on its way at a time.
func (l *Log) TakeView(v *View) bool {
	if !l.viewDue {
		return false
	}
	l.viewDue = false
	for range l.groups {
		if l.viewHand++; l.viewHand >= len(l.groups) {
			l.viewHand = 0
		}
		if g := &l.groups[l.viewHand]; !g.view.taken && (l.completeView(g, v) || l.nextView(g, v)) {
			v.Group, v.moved = g.id, g.moved
			g.view.taken, l.viewDue = true, true
			return true
		} else if !g.view.own || g.up&^g.lost&^g.view.members != 0 {
			l.viewDue = true // later, when somebody is clean, or whole, or back
		}
	}
	return false
}

// ViewDue reports whether TakeView may have a record.
func (l *Log) ViewDue() bool { return l.viewDue }

// completeView gives the record in force to those who lack it, whether or not they
// are in the view: all help to find it again. One that does not hold
// what it should lacks it perhaps because it has forgotten everything, which would not
// show any more: what it lacks is moved first, and it gets the record only when the
// others are too few.
func (l *Log) completeView(g *logGroup, v *View) bool {
	r := &g.view
	if !l.opened && g.nunsure > 0 {
		return false
	}
	*v = View{Index: r.slot, Seq: r.seq, Settled: r.settled, Trust: r.trust, Members: r.members, Whole: r.whole, To: g.up &^ g.lost &^ r.copies}
	if l.durable(g, (r.copies|v.To)&^g.damaged) {
		v.To &^= g.damaged
	}
	for _, p := range g.pending {
		if p.up && !p.viewed {
			v.Second |= 1 << p.col
		}
	}
	return r.seq != 0 && v.To|v.Second != 0
}

// nextView gives another record when the group should have one. What a recovery
// found is settled first, under the view that it found.
func (l *Log) nextView(g *logGroup, v *View) bool {
	r := &g.view
	want := l.wanted(g)
	whole := l.wholeOf(g) & want
	switch {
	case r.own && want == r.members && whole&^r.whole == 0 && r.tried <= r.seq && !r.renew:
		return false
	case popcount(want&g.up) < l.g.K || !l.durable(g, want&g.up) && !l.fresh():
		return false // nobody could recover the group from these
	case r.seq != 0 && !r.own && !l.durable(g, r.copies):
		return false // the older record may be the one in force
	case !l.opened && (g.nvoid+g.nunsure > 0 || g.window.n > 0):
		return false // it says that all is settled, moves too that are on their way
	}
	*v = View{Seq: l.NextSeq(), Settled: l.settled(g), Members: want, Whole: whole, To: want & g.up, Second: g.second()}
	if r.coming &= whole; r.tried <= r.seq {
		r.coming = whole
	}
	r.tried = v.Seq
	barred := r.members &^ want
	if r.seq != 0 {
		v.Index = r.slot ^ 1
	}
	// Who leaves may keep what is not settled now. Before Begin that is what the
	// recovery found: an earlier client may have gone on with who could not be read.
	v.Trust = l.settled(g)
	if r.members != l.all() {
		v.Trust = min(v.Trust, r.trust) // somebody has left before
	}
	if !l.opened {
		v.Settled = v.Seq - 1
	}
	l.setMask(g.id, func(g *logGroup) { g.view.barred |= barred })
	return true
}

// fresh reports whether nothing was ever written, so that nobody can miss it.
func (l *Log) fresh() bool { return !l.opened && !l.recovered }

// Installed ends the writing of a record that the members in done and the pending
// members in second have. The condition of Abandon holds here too.
func (l *Log) Installed(v *View, done, second uint32) {
	l.setMask(v.Group, func(g *logGroup) {
		r := &g.view
		r.taken = false
		done &= v.To
		if v.moved != g.moved {
			done, second = 0, 0 // of one column it was another chunk that got it: once more
		}
		switch {
		case v.Seq == r.seq:
			r.copies |= done &^ g.lost
		case done != v.To || !l.durable(g, done) && !l.fresh() || v.Members&^r.members&^g.up != 0:
			return // some may have it: another one above it is due (tried)
		default:
			*r = groupView{members: v.Members &^ g.lost, whole: v.Whole &^ g.lost, copies: done &^ g.lost, seq: v.Seq, tried: v.Seq, settled: v.Settled, trust: v.Trust, slot: v.Index, own: true}
			for _, p := range g.pending {
				p.viewed = false
			}
		}
		for _, p := range g.pending {
			p.viewed = p.viewed || v.Second&second&(1<<p.col) != 0
		}
	})
}

// RenewViews has the records of groups written anew that batches were placed in
// since, so that they say of these too that they are settled: the next recovery
// then has nothing to judge.
func (l *Log) RenewViews() {
	for i := range l.groups {
		if g := &l.groups[i]; g.placed > g.view.settled && g.placed <= l.settled(g) {
			g.view.renew, l.viewDue = true, true
		}
	}
}

// InView reports whether member c belongs to group g, has every row, and holds the
// record that says so, above which there is no other.
func (l *Log) InView(g GroupID, c Col) bool { return l.groups[g].attested()&(1<<c) != 0 }

// attested is the mask of members that a recovery would take for whole, whichever it finds
// of the records that were begun since the one in force.
func (g *logGroup) attested() uint32 {
	r := &g.view
	whole := r.members & r.copies & r.whole
	switch {
	case !r.own || r.tried > r.seq && !r.taken:
		return 0
	case r.tried > r.seq:
		return whole & r.coming
	}
	return whole
}

// wholeOf is the mask of members that are up and have every row in use.
func (l *Log) wholeOf(g *logGroup) uint32 {
	whole := g.up &^ g.lost &^ g.damaged &^ g.doubt
	for _, p := range g.pending {
		if p.vouched && p.nmissed != 0 {
			whole &^= 1 << p.col // it may be the member already
		}
	}
	for m := whole; m != 0; m &= m - 1 {
		if c := bits.TrailingZeros32(m); g.nmissed[c] != 0 {
			whole &^= 1 << c
		}
	}
	return whole
}

// leaveView takes member c out: it is another chunk, or holds nothing any more.
func (g *logGroup) leaveView(c Col) {
	g.view.members &^= 1 << c
	g.view.whole &^= 1 << c
	g.view.copies &^= 1 << c
	g.damaged &^= 1 << c
}

// ViewLost reports whether member c, which should hold the record in force, has lost it:
// b is what it was read to have in view row i. Then it is given the record again.
func (l *Log) ViewLost(g GroupID, c Col, i Index, b []byte) bool {
	r := &l.groups[g].view
	if !r.own || r.taken || i != r.slot || r.copies&(1<<c) == 0 {
		return false
	}
	h, err := ParseHeader(b)
	if err == nil && h.Kind == KindView && h.Site == l.Site(g, i) && h.Seq >= r.seq {
		return false
	}
	r.copies &^= 1 << c
	l.viewDue = true
	return true
}

// SetView tells the log of a recovery the view rows of group g: headers[i][c] is
// that of row i at member c, or nil when the member cannot be read; members in filling
// are being rebuilt. It reports false when no record was found.
func (l *Log) SetView(g GroupID, headers [viewRows][][]byte, filling uint32) (found bool) {
	gr := &l.groups[g]
	var read, holds uint32
	for i := range headers {
		for c, b := range headers[i] {
			if b == nil {
				continue
			}
			read |= 1 << c
			h, err := ParseHeader(b)
			if err != nil || h.Kind != KindView || h.Site != l.Site(g, Index(i)) {
				continue
			}
			holds |= 1 << c
			l.seq = max(l.seq, h.Seq)
			if h.Seq > gr.view.seq {
				l.setMask(g, func(gr *logGroup) {
					gr.view = groupView{members: h.Members & l.all(), whole: h.CRC, seq: h.Seq, tried: h.Seq, settled: h.Settled, trust: Seq(h.Page), slot: Index(i)}
				})
			}
			if h.Seq == gr.view.seq {
				gr.view.copies |= 1 << c
			}
		}
	}
	gr.view.blank, gr.view.filling = read&^holds, filling
	return gr.view.seq != 0
}

// Enough reports whether group g can be recovered from these members, which could
// be read: among them is one of any that know of a row that was answered. Those are
// more than M of whatever view is found, or all of it whose absence is not noted. Since
// then members may have lost it: at most M may miss anything, when others cannot be read.
// Members that are being rebuilt may lack what they like.
func (l *Log) Enough(g GroupID, read uint32) bool {
	gr := &l.groups[g]
	v := &gr.view
	named := read &^ v.filling
	switch {
	case popcount(read) < l.g.K || named&v.members == 0 || popcount(v.members&^named) > l.g.M:
		return false
	case l.all()&^gr.lost&^read == 0:
		return true
	}
	return popcount(l.all()&^(named&v.whole)) <= l.g.M
}

// AcceptView has a group whose view is not known believe these members: who they
// are is lost with more than M of them.
func (l *Log) AcceptView(g GroupID, members uint32) {
	l.setMask(g, func(gr *logGroup) { gr.view = groupView{members: members, filling: gr.view.filling} })
}

// ViewRows is how many rows of a group hold its view.
const ViewRows = viewRows

// Unsettled reports what keeps the log from Begin: rows to be erased, rows to be
// moved, and groups without a view of this client.
func (l *Log) Unsettled() (void, unsure uint64, views int) {
	for i := range l.groups {
		if !l.groups[i].view.own {
			views++
		}
	}
	return l.voids, l.unsure, views
}

// Begin opens the log for page-outs. What it holds must be settled.
func (l *Log) Begin() {
	if void, unsure, views := l.Unsettled(); void+unsure != 0 || views != 0 {
		panic("raid: a log that is not settled begins")
	}
	l.BeginAnyway()
}

// BeginAnyway is Begin for a log that cannot be settled because too much is gone.
// A group without a view cannot be written.
func (l *Log) BeginAnyway() {
	for i := range l.groups {
		g := &l.groups[i]
		if !g.view.own {
			g.view = groupView{}
		}
		clear(g.unsure)
		g.nunsure = 0
	}
	l.letGo()
	l.opened, l.free, l.unsure, l.sentTo, l.unheard, l.spared, l.viewDue = true, 0, 0, nil, nil, nil, true
	for i := range l.groups {
		if g := &l.groups[i]; l.writable(g) {
			l.free += uint64(g.nfree)
		}
	}
}

// MinAck is the least members that a row is written to. Until Begin there are only
// moves, of pages that fewer may have.
func (l *Log) MinAck() int {
	if l.opened {
		return l.minAck
	}
	return l.g.K
}
