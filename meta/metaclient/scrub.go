package metaclient

import (
	"time"

	"dmps/client"
	"dmps/meta/metapb"
)

func scrubTo(s *client.ScrubStatus) *metapb.Scrub {
	if s == nil {
		return nil
	}
	return &metapb.Scrub{
		Running: s.Running, StartedUnixMs: unixMs(s.Started), FinishedUnixMs: unixMs(s.Finished), Ended: s.Ended,
		RowsTotal: s.RowsTotal, RowsDone: s.RowsDone, SlotsVerified: s.SlotsVerified, SlotsSkipped: s.SlotsSkipped,
		SkippedReason: s.SkippedReason, BadSlots: s.BadSlots, Repaired: s.Repaired, Unrepairable: s.Unrepairable,
		Bytes: s.Bytes, Rate: s.Rate, BytesPerSecond: s.BytesPerSecond,
	}
}

// scrubFrom reads what was reported of a scrub; what was found on each server
// only its client knows.
func scrubFrom(p *metapb.Scrub) *client.ScrubStatus {
	if p == nil {
		return nil
	}
	return &client.ScrubStatus{
		Running: p.Running, Started: instant(p.StartedUnixMs), Finished: instant(p.FinishedUnixMs), Ended: p.Ended,
		RowsTotal: p.RowsTotal, RowsDone: p.RowsDone, SlotsVerified: p.SlotsVerified, SlotsSkipped: p.SlotsSkipped,
		SkippedReason: p.SkippedReason, BadSlots: p.BadSlots, Repaired: p.Repaired, Unrepairable: p.Unrepairable,
		Bytes: p.Bytes, Rate: p.Rate, BytesPerSecond: p.BytesPerSecond,
	}
}

// unixMs writes a time that may be absent.
func unixMs(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
