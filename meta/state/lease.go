package state

import (
	"fmt"

	"dmps/raid"
)

// Epochs of a volume are many, and not endless (raid.MaxEpoch). The last ones are
// kept for clients: caretakers, which come by themselves, must not use them up. And
// somebody is told in time to copy what the volume holds.
const (
	userEpochs = 1 << 16
	warnEpochs = 1 << 10 // a warning each time that this many are gone
)

// attach gives the lease to a holder, under an epoch above all before.
func (s *State) attach(c *Attach) (any, *Refusal) {
	v, ok := s.VolumeByName(c.Name)
	switch {
	case !ok:
		return nil, refuse(NoVolume, "no volume %q: create it with dmps volume create", c.Name)
	case v.Epoch >= raid.MaxEpoch:
		return nil, refuse(Invalid, "volume %s has been attached as often as its sequence numbers can tell apart: no client can write it any more. Create another volume", c.Name)
	case c.Holder == "" || len(c.Holder) > 256:
		return nil, refuse(Invalid, "attach %s: a holder needs a name of 1 to 256 bytes", c.Name)
	case !c.Host.valid() || !c.Build.Valid():
		return nil, refuse(Invalid, "attach %s: what the holder says of its host or version is too long", c.Name)
	}
	switch l := v.Lease; {
	case c.Care && l != nil && l.Epoch != c.Expired && !(l.Care && l.of(c)):
		return nil, inUse(v) // a care lease takes nothing from anybody
	case c.Care:
		if why := s.NoCare(v); why != "" {
			return nil, refuse(NotFound, "volume %s needs no care: %s", v.Name, why)
		}
	case l != nil && !l.Care && !l.of(c) && l.Epoch != c.Expired && !c.Takeover:
		refusal := inUse(v)
		if l.Holder == c.Holder {
			refusal.Message += fmt.Sprintf(" on another machine, or in an earlier boot of this one: by %v, this is %v", l.Host, c.Host)
		}
		return nil, refusal
	}
	switch l := v.Lease; {
	case c.Care:
		s.note(Event{Kind: EventCareBegan, Volume: v.Name}, "%s rebuilds volume %s, which nobody has attached", c.Holder, v.Name)
	case l != nil && l.Care:
		s.note(Event{Kind: EventVolumeAttached, Volume: v.Name}, "%s attached volume %s: %s stops caring for it", c.Holder, v.Name, l.Holder)
	case l != nil && !l.of(c):
		why := "whose lease had run out"
		if l.Epoch != c.Expired {
			why = "on demand"
		}
		s.note(Event{Kind: EventVolumeTakenOver, Volume: v.Name}, "%s took volume %s over from %s, %s", c.Holder, v.Name, l.Holder, why)
	default:
		s.note(Event{Kind: EventVolumeAttached, Volume: v.Name}, "%s attached volume %s", c.Holder, v.Name)
	}
	if left := raid.MaxEpoch - v.Epoch; left <= userEpochs && left%warnEpochs == 0 {
		s.note(Event{Kind: EventEpochsLow, Volume: v.Name, Count: uint64(left)}, "volume %s can be attached only %d times more: copy what it holds to another volume", v.Name, left)
	}
	v.Epoch++
	v.LastLease = v.Epoch
	v.Lease = &Lease{Holder: c.Holder, Epoch: v.Epoch, Admin: c.Admin, Host: c.Host, Build: c.Build, Care: c.Care}
	s.touchVolume(v.ID)
	return Attached{Volume: v.ID, Epoch: v.Epoch, First: v.Unopened}, nil
}

// of reports whether the lease is that of who asks.
func (l *Lease) of(c *Attach) bool { return l.Holder == c.Holder && l.Host.is(c.Host) }

func inUse(v *Volume) *Refusal {
	r := refuse(InUse, "volume %s is attached by %s", v.Name, v.Lease.Holder)
	r.Holder, r.Admin, r.Volume = v.Lease.Holder, v.Lease.Admin, v.ID
	return r
}

func (s *State) detach(c *Detach) *Refusal {
	v := s.Volumes[c.Volume]
	switch {
	case v == nil:
		return refuse(NoVolume, "volume %d was deleted", c.Volume)
	case v.Lease == nil && v.LastLease == c.Epoch:
		return nil // given back already
	case v.Lease == nil || v.Lease.Epoch != c.Epoch:
		return fenced(v, c.Epoch)
	}
	if v.Lease.Care {
		s.note(Event{Kind: EventCareEnded, Volume: v.Name}, "%s stops caring for volume %s", v.Lease.Holder, v.Name)
	} else {
		s.note(Event{Kind: EventVolumeDetached, Volume: v.Name}, "%s detached volume %s", v.Lease.Holder, v.Name)
	}
	v.Lease = nil
	s.touchVolume(v.ID)
	return nil
}

func (s *State) putReport(c *PutReport) *Refusal {
	if refusal := s.Renewable(c.Volume, c.Epoch); refusal != nil {
		return refusal
	}
	switch c.Report.State {
	case Healthy, Degraded, Failed:
	default:
		return refuse(Invalid, "volume state %q is unknown", c.Report.State)
	}
	v := s.Volumes[c.Volume]
	r := c.Report
	r.Unknown = v.StillUnknown(r.Unknown, c.Known)
	if r.LastScrub == nil && v.Report != nil {
		r.LastScrub = v.Report.LastScrub // this client does not know
	}
	s.noteScrub(v, r.LastScrub)
	v.Report = &r
	switch {
	case r.Unknown == 0:
		v.UnknownAt = 0
	case v.UnknownAt == 0:
		v.UnknownAt = s.now
		s.note(Event{Kind: EventPagesUnknown, Volume: v.Name, Count: r.Unknown}, "up to %d pages of volume %s are gone, and nobody knows which: they read as zeros, and others perhaps as older versions", r.Unknown, v.Name)
	}
	v.Unopened = false // a client reports what it has opened
	s.touchVolume(v.ID)
	return nil
}

// noteScrub notes that a scrub which a client reports for the first time left
// something out.
func (s *State) noteScrub(v *Volume, now *Scrub) {
	if now == nil || now.Skipped == 0 || v.Report != nil && v.Report.LastScrub != nil && v.Report.LastScrub.Finished == now.Finished {
		return
	}
	why := ""
	if now.SkippedReason != "" {
		why = ": " + now.SkippedReason
	}
	s.note(Event{Kind: EventScrubIncomplete, Volume: v.Name, Count: now.Skipped}, "a scrub of volume %s could not look at %d of %d slots%s", v.Name, now.Skipped, now.Skipped+now.Slots, why)
}

// StillUnknown is what a report says of unknown pages, by who knows a version of
// the layout. Of who has not heard yet that their loss was accepted it does not
// count.
func (v *Volume) StillUnknown(pages, known uint64) uint64 {
	if known < v.Accepted {
		return 0
	}
	return pages
}

// acceptLoss ends the remark that pages are gone of which nobody knows which:
// somebody has seen to what lies in the volume. Its client hears of it with the new
// version. Its result is how many pages that were.
func (s *State) acceptLoss(c *AcceptLoss) (any, *Refusal) {
	v, ok := s.VolumeByName(c.Name)
	if !ok {
		return nil, refuse(NoVolume, "no volume %q", c.Name)
	}
	n := v.Unknown()
	if n == 0 {
		return n, nil
	}
	v.Report.Unknown, v.UnknownAt = 0, 0
	s.newVersion(v)
	v.Accepted = v.Version
	s.note(Event{Kind: EventLossAccepted, Volume: v.Name, Count: n}, "that up to %d unknown pages of volume %s are gone is accepted", n, v.Name)
	return n, nil
}

// Renewable says whether the lease of this epoch is the volume's, or why not.
func (s *State) Renewable(volume raid.VolumeID, epoch raid.Epoch) *Refusal {
	v := s.Volumes[volume]
	switch {
	case v == nil:
		return refuse(Fenced, "volume %d was deleted", volume)
	case v.Lease == nil || v.Lease.Epoch != epoch:
		return fenced(v, epoch)
	}
	return nil
}

func fenced(v *Volume, epoch raid.Epoch) *Refusal {
	if v.Lease == nil {
		return refuse(Fenced, "volume %s: the lease of epoch %d is over", v.Name, epoch)
	}
	return refuse(Fenced, "volume %s: the lease of epoch %d is over, %s has epoch %d", v.Name, epoch, v.Lease.Holder, v.Lease.Epoch)
}
