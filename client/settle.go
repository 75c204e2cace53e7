package client

import (
	"context"
	"fmt"

	"dmps/raid"
)

// Before a volume is ready, rows that the recovery is not sure of are filled where they
// lie, at members that they were sent to and that lack them (raid/log_unsure.go). What
// cannot be filled, the cleaner moves. Filling needs no room, and is done first.

// fillUnsure has members filled once, one after another, with all that they miss if it is
// said so. It reports whether any was.
func (v *Volume) fillUnsure(ctx context.Context, all bool) (some bool) {
	for g := range v.layout.Groups {
		for c := range raid.Col(v.geo.Members()) {
			if ctx.Err() == nil && v.fillUnsureOf(ctx, raid.GroupID(g), c, !all) {
				some = true
			}
		}
	}
	v.mu.Lock()
	v.mu.log.Complete()
	v.mu.Unlock()
	return some
}

func (v *Volume) fillUnsureOf(ctx context.Context, g raid.GroupID, c raid.Col, unsure bool) (some bool) {
	v.mu.Lock()
	m := v.member(g, c)
	conn := v.sessionLocked(m)
	j := &rebuildJob{grp: g, col: c, ref: m.ref, peer: m.peer, conn: conn, unsure: unsure}
	rests := conn == nil || nanotime() < m.ref.notBefore
	v.mu.Unlock()
	for !rests && ctx.Err() == nil {
		spec, rows, epoch, _ := v.rebuildList(j, rebuildRows)
		if len(rows) == 0 {
			break
		}
		res, err := j.conn.Rebuild(ctx, spec)
		if err != nil && !knownOutcome(err) {
			v.peerDown(j.peer, j.conn, fmt.Errorf("filling member %d of group %d: %w", j.col, j.grp, err))
			<-j.conn.Done()
		}
		done := v.rebuildDone(j, rows, epoch, res, err)
		some = some || done > 0
		if err != nil || done < len(rows) {
			break
		}
	}
	return some
}
