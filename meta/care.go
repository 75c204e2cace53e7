package meta

import (
	"fmt"
	"time"

	"dmps/meta/metapb"
	"dmps/meta/state"
	"dmps/raid"
)

// Care of volumes that nobody has attached is offered to the memory servers in
// the answers to their heartbeats; whoever asks first gets the lease. What is
// here decides when, and is known to the leader alone.
const (
	// careEvery is how often the leader looks which volumes need care: a look
	// walks all their members.
	careEvery = time.Second
	// careDelay is how long after the end of its lease a client that crashed
	// may still be started again before its volume is cared for.
	careDelay = 5 * time.Second
	// ownedFor is how long a session that a server reported counts: some
	// heartbeats. A client that pages although meta does not hear of it must
	// not lose its volume to a caretaker.
	ownedFor = 4 * time.Second
	// A volume that was cared for in vain rests, twice as long each time.
	careRest    = 4 * time.Second
	careRestMax = 5 * time.Minute
)

// care is what a leader remembers of it.
type care struct {
	looked time.Time
	offers []*metapb.CareOffer         // as of looked
	owned  map[raid.VolumeID]time.Time // when a server last had a session with the volume's client
	rests  map[raid.VolumeID]rest
}

// rest is when a volume may be cared for again, unless it changes.
type rest struct {
	version uint64 // of the layout when care began
	wait    time.Duration
	until   time.Time
}

func newCare() care {
	return care{owned: map[raid.VolumeID]time.Time{}, rests: map[raid.VolumeID]rest{}}
}

// sessions notes that a server has sessions with the clients of these volumes.
func (c *care) sessions(volumes []uint64, now time.Time) {
	for _, v := range volumes {
		c.owned[raid.VolumeID(v)] = now
	}
}

// begun notes that a care lease was given out.
func (c *care) begun(v *state.Volume, now time.Time) {
	r := rest{version: v.Version, wait: careRest}
	if last, ok := c.rests[v.ID]; ok && last.version == v.Version {
		r.wait = min(2*last.wait, careRestMax)
	}
	r.until = now.Add(r.wait)
	c.rests[v.ID] = r
	c.looked = time.Time{} // what was found then is not offered any more
}

// notRipeLocked says why nobody may care for a volume yet; the empty string:
// somebody may, if the volume needs it (state.State.NoCare).
func (r *reign) notRipeLocked(s *state.State, v *state.Volume, now time.Time, cfg Config) string {
	if l := v.Lease; l != nil {
		end := r.leaseEndLocked(v, cfg).at
		if !l.Care {
			end = end.Add(careDelay)
		}
		if now.Before(end) {
			return fmt.Sprintf("%s has it, or may come back for it", l.Holder)
		}
		if r.pagesLocked(v, now) {
			return fmt.Sprintf("%s does not renew its lease, but has sessions with memory servers", l.Holder)
		}
	}
	if rest, ok := r.mu.care.rests[v.ID]; ok && rest.version == v.Version && now.Before(rest.until) {
		return "it was cared for in vain a moment ago"
	}
	return ""
}

// pagesLocked reports whether servers have sessions of the client that has the lease
// of a volume, as far as they said.
func (r *reign) pagesLocked(v *state.Volume, now time.Time) bool {
	at, ok := r.mu.care.owned[v.ID]
	return ok && v.Lease != nil && !v.Lease.Care && now.Sub(at) < ownedFor
}

// careOffersLocked lists the volumes that need somebody to care for them.
func (r *reign) careOffersLocked(s *state.State, now time.Time, cfg Config) []*metapb.CareOffer {
	c := &r.mu.care
	if now.Sub(c.looked) < careEvery {
		return c.offers
	}
	c.looked, c.offers = now, nil
	for id := range c.owned {
		if now.Sub(c.owned[id]) >= ownedFor {
			delete(c.owned, id)
		}
	}
	for id := range c.rests {
		if s.Volumes[id] == nil {
			delete(c.rests, id)
		}
	}
	for _, v := range s.SortedVolumes() {
		// What is attached, which is what most are, is not looked at closely.
		if r.notRipeLocked(s, v, now, cfg) == "" && s.NoCare(v) == "" {
			c.offers = append(c.offers, &metapb.CareOffer{Volume: v.Name, Pages: v.Pages})
		}
	}
	return c.offers
}
