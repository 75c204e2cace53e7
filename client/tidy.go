package client

import (
	"time"

	"dmps/raid"
)

// tidyAfter is how long no page-out may have come before the cleaner packs what
// writers left sparse (raid.Log.RowBound). Sooner it would move pages that are
// about to be overwritten; and it must not compete with a machine that swaps.
// The watch looks for longer than that before it rests.
const tidyAfter = int64((watchIdle - 10) * watchEvery)

// tidying is the cleaner's work on a volume at rest.
type tidying struct {
	on    bool
	seen  int64 // writes and trims counted at the last look
	since int64 // when that was another number
}

// tidyLocked is one look at whether writers rest. It reports whether the cleaner
// has to be started.
func (v *Volume) tidyLocked(now int64) bool {
	t := &v.mu.tidy
	if n := v.mu.count.writeOps + v.mu.count.trims; n != t.seen {
		t.seen, t.since, t.on = n, now, false
		return false
	}
	if t.on || now-t.since < tidyAfter || v.mu.log == nil || v.cfg.NoFrontEnd || !v.mu.ready || v.mu.closed != nil || !v.mu.log.Sparse() {
		return false
	}
	t.on = !v.hurtLocked()
	return t.on
}

// hurtLocked reports whether something is being rebuilt, which comes first, or
// will have to be: what is moved meanwhile would be rebuilt too.
func (v *Volume) hurtLocked() bool {
	if v.mu.heal.active > 0 || v.mu.healing {
		return true
	}
	for _, p := range v.allPeers() {
		if len(p.members) > 0 && p.state != peerUp {
			return true
		}
	}
	return false
}

// tidyAgain is how long sparse rows are left alone that cannot be read. A watch
// that rests by then looks again with the next request.
const tidyAgain = int64(time.Second)

// tidyVictimsLocked picks what a volume at rest has packed next, one batch at a
// time.
func (v *Volume) tidyVictimsLocked(dst []raid.Slot) []raid.Slot {
	t := &v.mu.tidy
	if v.mu.cleaners > 0 {
		return dst
	}
	if n := v.mu.count.writeOps + v.mu.count.trims; n != t.seen || !v.mu.log.Sparse() || v.hurtLocked() {
		t.on = false
		return dst
	}
	had := len(dst)
	if dst = v.mu.log.Victims(dst); len(dst) == had {
		t.on, t.since = false, nanotime()+tidyAgain
	}
	return dst
}
