package client

import "dmps/raid"

// unit is one page that has to be fetched: for a front end's OpRead, for the
// cleaner, or as the old content of a sub-page write. Guarded by Volume.mu.
type unit struct {
	op    *Op  // whose Bufs[i] it becomes
	i     int  //
	merge *Buf // or the page-out that needs it

	page raid.PageNo
	slot raid.Slot // where it was when it was last looked up
	move bool      // the cleaner wants this slot, whatever it holds
	raw  bool      // recovery wants this slot, which the map does not know yet
	kind raid.HeaderKind
	tag  uint32
	grp  raid.GroupID
	idx  raid.Index

	buf    *Buf   // to read into; the reader's until it is delivered
	avoid  uint32 // members that gave something else than what must be there
	shelf  shelf  // what is known of those that it may be made from
	tries  int
	since  int64 // when it was first looked for, by Volume.clock
	parked int64 // when it began to wait for members, nanoseconds
	last   bool  // it was routed anew after the patience: not once more
	unsure bool  // it is parked because the lease is over

	refs      int  // transfers that still point here
	delivered bool // done, well or not
	hedged    bool // a second way is tried while the first is under way

	next *unit
}

func (v *Volume) newUnitLocked() *unit {
	u := v.mu.units
	if u == nil {
		return &unit{}
	}
	v.mu.units = u.next
	*u = unit{}
	return u
}

// settleLocked recycles a unit that is done and that nobody points at.
func (v *Volume) settleLocked(u *unit) {
	if u.delivered && u.refs == 0 {
		u.next = v.mu.units
		v.mu.units = u
	}
}

// deliverLocked ends u with the page in buf, which is u.buf, a constant or a
// buffer of a rescue.
func (v *Volume) deliverLocked(u *unit, buf *Buf, a *after) {
	u.delivered = true
	if u.merge != nil {
		v.mergeLocked(u.merge, buf.Page, a)
		if buf.home != nil {
			a.free = append(a.free, buf)
		}
	} else {
		u.op.Bufs[u.i] = buf
		v.partDoneLocked(u.op, nil, a)
	}
	if u.buf == buf {
		u.buf = nil
	}
	v.settleLocked(u)
}

// failUnitLocked ends u with err.
func (v *Volume) failUnitLocked(u *unit, err error, a *after) {
	u.delivered = true
	if u.buf != nil {
		a.free = append(a.free, u.buf)
		u.buf = nil
	}
	if u.merge != nil {
		v.failPageLocked(u.merge, err, a)
	} else {
		u.op.Bufs[u.i] = nil
		if u.raw {
			u.op.st.wrong[u.i] = u.avoid
		}
		v.partDoneLocked(u.op, err, a)
	}
	v.settleLocked(u)
}
