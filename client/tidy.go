package client

import "dmps/raid"

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
	if v.mu.heal.active > 0 || v.mu.healing {
		return false // a rebuild comes first
	}
	for _, p := range v.allPeers() {
		if len(p.members) > 0 && p.state != peerUp {
			return false // what is moved now would be rebuilt later
		}
	}
	t.on = true
	return true
}

// tidyVictimsLocked picks what a volume at rest has packed next, one batch at a
// time.
func (v *Volume) tidyVictimsLocked(dst []raid.Slot) []raid.Slot {
	t := &v.mu.tidy
	if v.mu.cleaners > 0 {
		return dst
	}
	if n := v.mu.count.writeOps + v.mu.count.trims; n != t.seen || !v.mu.log.Sparse() {
		t.on = false
		return dst
	}
	had := len(dst)
	if dst = v.mu.log.Victims(dst); len(dst) == had {
		t.on, t.since = false, nanotime() // rows that cannot be read now: another time
	}
	return dst
}
