package client

import (
	"context"
	"math/bits"

	"dmps/raid"
)

// prove reads rows that count because enough members have them, by their headers, while
// others say that they were never answered. Where pages are damaged they are too few, and
// the row does not count: what was answered before is what its pages read as.
func (v *Volume) prove(ctx context.Context, rec *raid.Recovery) error {
	for g := range v.layout.Groups {
		a := v.lock()
		rows := rec.Unproved(raid.GroupID(g))
		v.unlock(a)
		for i := range rows {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			answered, wrong, err := v.wrongPages(rec, &rows[i])
			if err != nil {
				return err
			}
			rec.Unheard(&rows[i], rows[i].Have&^answered)
			if wrong != 0 {
				v.disproved(rec, &rows[i], wrong)
			}
		}
	}
	return nil
}

// disproved counts the slots of a row that are damaged.
func (v *Volume) disproved(rec *raid.Recovery, u *raid.Unproved, wrong uint32) {
	a := v.lock()
	defer v.unlock(a)
	rec.Wrong(u, wrong)
	for m := wrong; m != 0; m &= m - 1 {
		c := raid.Col(bits.TrailingZeros32(m))
		v.mu.count.corrupt++
		if p := v.member(u.Group, c).peer; p != nil {
			v.countBadSlotLocked(p.id)
			v.log.Error("a stored page does not match its header", "server", p.id, "group", u.Group, "slot", u.Index, "column", c)
		}
	}
}

// wrongPages reads a row of all members that have it, and gives those whose page is not
// what their header says. Who does not answer may have it.
func (v *Volume) wrongPages(rec *raid.Recovery, u *raid.Unproved) (answered, wrong uint32, err error) {
	bufs, ok := v.moves.tryGet(popcount(u.Have), nil)
	if !ok {
		return 0, 0, errTooMany
	}
	var of [raid.MaxData + raid.MaxParity]*Buf
	answered = v.ask(u.Group, u.Have, func(x *xfer, c raid.Col) {
		b := bufs[popcount(u.Have&(1<<c-1))]
		of[c] = b
		x.req.Op = opRead
		x.add(u.Index, b.hdr[:v.layout.HeaderBytes(c)], b.Page)
	})
	for m := answered; m != 0; m &= m - 1 {
		c := raid.Col(bits.TrailingZeros32(m))
		if !rec.Proves(u, of[c].hdr[:v.layout.HeaderBytes(c)], of[c].Page) {
			wrong |= 1 << c
		}
	}
	a := v.lock()
	a.free = append(a.free, bufs...)
	v.unlock(a)
	return answered, wrong, nil
}
