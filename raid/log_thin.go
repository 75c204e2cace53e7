package raid

import "math/bits"

// A thin row is one that at most M members know of. Any K others may be all that a
// later client reaches: none of those knows of the row, and an older version of
// its pages would be served without a word; nor is a client that was replaced
// fenced where it can still write such rows. With K > M no row has to be thin: K
// members are needed to write at all, and Reserve has more than M of them know of
// it. With K <= M the log is guarded: a thin row is written only while the absence
// of every member that misses it is noted by somebody whom the next client asks
// first.

// GuardThin has the log refuse thin rows that miss members whose absence is not
// noted. Without redundancy by copies (K > M) it changes nothing.
func (l *Log) GuardThin() { l.guarded = l.g.K <= l.g.M }

// SetNoted says whether it is noted that member c of group g may miss rows, or that is
// about to be taken back, and may or may not be already.
func (l *Log) SetNoted(g GroupID, c Col, noted, revoked bool) {
	l.setMask(g, func(gr *logGroup) {
		gr.noted &^= 1 << c
		gr.revoked &^= 1 << c
		if noted {
			gr.noted |= 1 << c
		}
		if revoked {
			gr.revoked |= 1 << c
		}
	})
}

// Unnoted is the mask of members of g whose absence is to be noted before rows
// can be written there; 0: none, or it would not help.
func (l *Log) Unnoted(g GroupID) uint32 {
	gr := &l.groups[g]
	up := gr.up &^ gr.lost &^ gr.damaged &^ l.tillBegin(gr)
	named := up &^ gr.doubt // a column in doubt may have a member that does not get the rows
	if bits.OnesCount32(up) < l.MinAck() || bits.OnesCount32(named&^gr.noted&^gr.revoked) < l.g.K || l.durable(gr, named) {
		return 0
	}
	return l.absent(named) &^ gr.noted
}

// tillBegin is the mask of members that stay out of the view of g until the log has begun:
// they came back with rows that were given up (Leftover), in slots of others that may be
// dead only then.
func (l *Log) tillBegin(g *logGroup) (out uint32) {
	if l.opened || g.erasing > 0 {
		return 0
	}
	for m := g.up &^ g.lost &^ g.view.members; m != 0; m &= m - 1 {
		for w, stale := range g.stale[bits.TrailingZeros32(m)] {
			for stale &^= g.doomed[w]; stale != 0; stale &= stale - 1 {
				if l.live[l.rowOf(g, uint32(w*64+bits.TrailingZeros64(stale)))] == 0 {
					out |= m & -m
				}
			}
		}
	}
	return out
}

// MayCommit reports whether the rows of a placement may be answered, now that
// its members have them: a note may have been taken back since Reserve, or members have
// left the view.
func (l *Log) MayCommit(p *Placement) bool {
	g := &l.groups[p.Group]
	return l.durable(g, p.Named&g.view.members&^g.view.barred)
}

func (l *Log) absent(members uint32) uint32 { return (uint32(1)<<l.g.Members() - 1) &^ members }
