package client

import (
	"cmp"
	"context"
	"slices"
	"time"

	"dmps/raid"
	"dmps/transport"
)

const (
	// scrubPending is how many slots are remembered to be looked at again,
	// about: then they are, before the scrub goes on.
	scrubPending = 1024
	// scrubRepair is how long the scrub waits for the rebuild driver.
	scrubRepair = 20 * time.Second
	// scrubRounds is how often a slot is looked at again.
	scrubRounds = 3
	// scrubPoll is how often it looks whether slots were filled.
	scrubPoll = 5 * time.Millisecond
)

// whyNotCompared is the reason of a slot whose source was wrong and is not repaired.
const whyNotCompared = "a row could not be compared: another slot of it is wrong, and not repaired"

// scrubSlot is a slot that is to be looked at again: it was wrong and is being
// filled, or could not be compared because another one was wrong.
type scrubSlot struct {
	grp raid.GroupID
	row raid.UsedRow
	col raid.Col
	ref *memberRef
	bad bool // it was wrong
}

// settle waits until what was found wrong is filled, for a time, and verifies
// it again. Whatever is left then counts as not repaired.
func (s *scrub) settle(ctx context.Context) error {
	for round := 0; len(s.pending) > 0 && round < scrubRounds; round++ {
		again, err := s.awaitRepair(ctx)
		if err != nil {
			return err
		}
		s.pending = s.pending[:0]
		slices.SortFunc(again, func(a, b scrubSlot) int {
			return cmp.Or(cmp.Compare(a.grp, b.grp), cmp.Compare(a.col, b.col), cmp.Compare(a.row.Index, b.row.Index))
		})
		for len(again) > 0 {
			n := 1
			for n < len(again) && n < cap(s.rows) && again[n].grp == again[0].grp && again[n].col == again[0].col {
				n++
			}
			if err := s.verifyAgain(ctx, again[:n]); err != nil {
				return err
			}
			again = again[n:]
		}
	}
	a := s.v.lock()
	defer s.v.unlock(a)
	for _, p := range s.pending {
		if p.bad {
			s.status.Unrepairable++
		} else {
			s.skippedLocked(p.ref.peerLocked(s.v), 1, whyNotCompared)
		}
	}
	s.pending = s.pending[:0]
	return nil
}

// peerLocked is the server of a member; nil when it is no member any more.
func (m *memberRef) peerLocked(v *Volume) *peer {
	if cur := v.member(m.group, m.col); cur.ref == m {
		return cur.peer
	}
	return nil
}

// awaitRepair returns the pending slots that can be verified. Those whose row
// has died, or whose member was replaced, are done with; those that are not
// filled in time count as not repaired.
func (s *scrub) awaitRepair(ctx context.Context) ([]scrubSlot, error) {
	v := s.v
	var again []scrubSlot
	for end := time.Now().Add(scrubRepair); ; {
		a := v.lock()
		closed := v.mu.closed
		open := s.pending[:0]
		for _, p := range s.pending {
			switch {
			case !v.mu.log.InUse(p.grp, p.row.Index, p.row.Tag), v.member(p.grp, p.col).ref != p.ref:
				s.doneLocked(p)
			case v.mu.log.Holders(p.grp, p.row.Index)&(1<<p.col) != 0:
				again = append(again, p)
			default:
				open = append(open, p)
			}
		}
		s.pending = open
		late := !time.Now().Before(end) || !s.repairableLocked()
		if late || closed != nil {
			for _, p := range open {
				if p.bad {
					s.status.Unrepairable++
				} else {
					s.skippedLocked(p.ref.peerLocked(v), 1, whyNotCompared)
				}
			}
			s.pending = open[:0]
		}
		left := len(s.pending)
		v.unlock(a)
		if closed != nil {
			s.pending = again // filled, and not looked at
			return nil, closed
		}
		if left == 0 {
			return again, nil
		}
		select {
		case <-ctx.Done():
			s.pending = append(s.pending, again...)
			return nil, ctx.Err()
		case <-time.After(scrubPoll):
		}
	}
}

// repairableLocked reports whether any pending slot has a chance to be filled
// now: its member is up, and so are enough others.
func (s *scrub) repairableLocked() bool {
	v := s.v
	for _, p := range s.pending {
		if v.sessionLocked(v.member(p.grp, p.col)) != nil &&
			v.mu.log.CanDecode(v.mu.log.Survivors(p.grp, p.row.Index), p.row.Filled) {
			return true
		}
	}
	return false
}

// doneLocked is done with a slot that was looked at again and is right, or that
// nothing refers to any more.
func (s *scrub) doneLocked(p scrubSlot) {
	if p.bad {
		s.status.Repaired++
	}
}

// verifyAgain verifies slots of one column of one group.
func (s *scrub) verifyAgain(ctx context.Context, slots []scrubSlot) error {
	v := s.v
	a := v.lock()
	if err := v.mu.closed; err != nil {
		v.unlock(a)
		s.pending = append(s.pending, slots...)
		return err
	}
	var rows []raid.UsedRow
	var asked []scrubSlot
	for _, p := range slots {
		holders := v.mu.log.Holders(p.grp, p.row.Index)
		switch {
		case !v.mu.log.InUse(p.grp, p.row.Index, p.row.Tag), v.member(p.grp, p.col).ref != p.ref:
			s.doneLocked(p)
		case holders&(1<<p.col) == 0:
			s.pending = append(s.pending, p) // once more: wrong again, by somebody else's account
		default:
			p.row.Holders = holders
			rows, asked = append(rows, p.row), append(asked, p)
		}
	}
	if len(rows) == 0 {
		v.unlock(a)
		return nil
	}
	l := s.newListLocked(slots[0].grp, rows)
	s.partLocked(l, slots[0].col, rows, false)
	v.unlock(a)
	s.ask(ctx, l)

	a = v.lock()
	defer v.unlock(a)
	defer s.endListLocked(l)
	p := l.parts[0]
	if p.err != nil {
		// A bad slot that is filled and cannot be looked at is not proved.
		s.pending = append(s.pending, asked...)
		return ctx.Err()
	}
	s.status.Bytes += p.res.Checked + p.res.Pulled
	t := s.serverLocked(p.peer.id)
	t.Bytes += p.res.Checked + p.res.Pulled
	fails := p.res.Failed
	for i, slot := range asked {
		if len(fails) == 0 || fails[0].Row != i {
			s.doneLocked(slot)
			if !slot.bad {
				t.Slots++
				s.status.SlotsVerified++
			}
			continue
		}
		f := fails[0]
		fails = fails[1:]
		s.failedAgainLocked(l, p, slot, f)
	}
	return ctx.Err()
}

// failedAgainLocked judges a slot that was looked at again and not found right.
func (s *scrub) failedAgainLocked(l *scrubList, p *scrubPart, slot scrubSlot, f transport.RebuildFailure) {
	v := s.v
	if slot.bad && f.Col == uint8(p.col) && wrongSlot(f.Reason) {
		// It counts once, however often it is filled and wrong again.
		v.countBadSlotLocked(p.peer.id)
		v.log.Error("a slot that was filled is wrong again: do not trust that server's memory",
			"group", l.grp, "slot", slot.row.Index, "column", p.col, "server", p.peer.id, "why", f.Reason)
		if v.mu.log.InUse(slot.grp, slot.row.Index, slot.row.Tag) && v.member(slot.grp, slot.col).ref == slot.ref {
			v.mu.log.SetMissed(slot.grp, slot.row.Index, slot.col)
			v.healthChangedLocked()
		}
		s.pending = append(s.pending, slot)
		return
	}
	s.failedLocked(l, p, slot.row, f)
	s.doneLocked(slot) // right by itself, and filled from what was verified
}
