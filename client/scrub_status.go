package client

import (
	"cmp"
	"slices"
	"time"

	"dmps/raid"
)

// ScrubStatus is how far a scrub is, and what it found.
type ScrubStatus struct {
	Running  bool      `json:"running"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"` // zero: it runs
	Ended    string    `json:"ended,omitempty"`   // why it ended before it had gone through all rows

	RowsTotal uint64 `json:"rows_total"` // in use when it began
	RowsDone  uint64 `json:"rows_done"`  // rows come and go: it may end a little above or below the total

	SlotsVerified uint64 `json:"slots_verified"`           // members' slots that were looked at, right or wrong
	SlotsSkipped  uint64 `json:"slots_skipped"`            // that could not be: their member is down, lost or being filled, or too few others are up to compare with. Not 0: incomplete
	SkippedReason string `json:"skipped_reason,omitempty"` // the last one, and of which server
	BadSlots      uint64 `json:"bad_slots"`                // found wrong. Right again, or gone, or not:
	Repaired      uint64 `json:"repaired"`                 // of them: filled from the other members and verified again, or written anew elsewhere
	Unrepairable  uint64 `json:"unrepairable"`             // of them: not, because too few members of their rows are there, or are right

	Bytes          uint64        `json:"bytes"`            // that servers read for it, of their own memory and from each other
	Rate           int64         `json:"rate"`             // limit, bytes a second and server; 0: none
	BytesPerSecond int64         `json:"bytes_per_second"` // of all servers, since it started
	Servers        []ScrubServer `json:"servers,omitempty"`
}

// ScrubServer is the part of one server in a scrub.
type ScrubServer struct {
	Server  raid.ServerID `json:"server"`
	Slots   uint64        `json:"slots"` // verified
	Skipped uint64        `json:"skipped"`
	Bad     uint64        `json:"bad"`
	Bytes   uint64        `json:"bytes"`             // that it read
	Problem string        `json:"problem,omitempty"` // why slots were skipped: the last reason
}

// Complete reports whether the scrub went through everything and looked at all
// of it.
func (s *ScrubStatus) Complete() bool {
	return !s.Running && s.Ended == "" && s.SlotsSkipped == 0 && !s.Finished.IsZero()
}

func (s *scrub) serverLocked(id raid.ServerID) *ScrubServer {
	t := s.servers[id]
	if t == nil {
		t = &ScrubServer{Server: id}
		s.servers[id] = t
	}
	return t
}

// snapshotLocked is the status as it is now.
func (s *scrub) snapshotLocked() ScrubStatus {
	st := s.status
	end := st.Finished
	if st.Running {
		end = time.Now()
	}
	if d := end.Sub(st.Started).Seconds(); d > 0 {
		st.BytesPerSecond = int64(float64(st.Bytes) / d)
	}
	for _, t := range s.servers {
		st.Servers = append(st.Servers, *t)
	}
	slices.SortFunc(st.Servers, func(a, b ScrubServer) int { return cmp.Compare(a.Server, b.Server) })
	return st
}

// reportScrubLocked fills in what a report says of scrubs.
func (v *Volume) reportScrubLocked(r *Report) {
	if v.mu.scrub != nil {
		st := v.mu.scrub.snapshotLocked()
		r.Scrub = &st
	}
	r.LastScrub = v.mu.scrubbed
}
