package state

import (
	"cmp"
	"fmt"
	"slices"

	"dmps/raid"
)

const (
	// maxEvents is how many events are kept: some hundred KiB, and hours of a cluster in
	// trouble, because what befalls many members at once is one event.
	maxEvents = 4096
	// tellVolumes is of how many volumes a plan tells one by one. When more are concerned
	// it tells of all in one event.
	tellVolumes = 8
	// tellServers is how many servers a text names.
	tellServers = 16
	// foldWithin is for how long what clients of many volumes say is one event, once
	// tellVolumes of them have been told of.
	foldWithin = 60_000 // milliseconds
	foldBack   = 64     // events that are looked at for that
)

// Kinds of events. They are part of the API.
const (
	EventServerJoined    = "server-joined"
	EventServerUp        = "server-up" // heard again
	EventServerSuspect   = "server-suspect"
	EventServerDown      = "server-down"
	EventServerRestarted = "server-restarted" // empty
	EventServerRemoved   = "server-removed"
	EventServerDraining  = "server-draining"
	EventServerUndrained = "server-undrained"
	EventServerDrained   = "server-drained" // it holds nothing any more
	EventServerShort     = "server-short"   // of memory
	EventServerRelieved  = "server-relieved"

	EventMembersLost      = "members-lost"
	EventMembersReplaced  = "members-replaced"
	EventMembersMoving    = "members-moving"
	EventMembersStuck     = "members-stuck"  // to be replaced, and cannot be
	EventMembersBehind    = "members-behind" // too few others hold what they are about to miss
	EventMembersRebuilt   = "members-rebuilt"
	EventMembersMoved     = "members-moved"
	EventMembersElsewhere = "members-elsewhere" // their servers refuse memory: others are filled in their place
	EventMovesGivenUp     = "moves-given-up"
	EventRebalanceStarted = "rebalance-started"
	EventRebalanceEnded   = "rebalance-ended"

	EventVolumeCreated   = "volume-created"
	EventVolumeDeleted   = "volume-deleted"
	EventVolumeAttached  = "volume-attached"
	EventVolumeTakenOver = "volume-taken-over"
	EventVolumeDetached  = "volume-detached"
	EventEpochsLow       = "epochs-low"    // it cannot be attached much more often
	EventPagesUnknown    = "pages-unknown" // gone, and nobody knows which
	EventLossAccepted    = "loss-accepted" // of these

	EventScrubIncomplete = "scrub-incomplete" // it left something out

	EventCareBegan = "care-began" // a memory server fills what a detached volume misses
	EventCareEnded = "care-ended"

	EventRestored      = "restored"       // the cluster, from a backup
	EventChunksUnknown = "chunks-unknown" // a server holds some that this state did not give out
	EventChunksPurged  = "chunks-purged"  // of these
	EventLevelRaised   = "level-raised"   // of the cluster
)

// Event is something that happened, and why.
type Event struct {
	Seq    uint64        `json:"seq"` // 1 is the first of the cluster; only grows
	At     int64         `json:"at"`  // Unix milliseconds, by the clock of the leader of that time
	Kind   string        `json:"kind"`
	Server raid.ServerID `json:"server,omitempty"`
	Volume string        `json:"volume,omitempty"` // name
	Count  uint64        `json:"count,omitempty"`  // of members
	Text   string        `json:"text"`             // for people

	Volumes uint64 `json:"volumes,omitempty"` // how many it concerns, where Volume is empty; 0: none, or that was not counted
}

// note appends an event.
func (s *State) note(e Event, format string, a ...any) {
	e.Seq, e.At, e.Text = s.LastEvent()+1, s.now, fmt.Sprintf(format, a...)
	s.Events = append(s.Events, e)
	s.touched.Events[e.Seq] = struct{}{}
	if extra := len(s.Events) - maxEvents; extra > 0 {
		for _, old := range s.Events[:extra] {
			s.touched.Events[old.Seq] = struct{}{}
		}
		s.Events = slices.Delete(s.Events, 0, extra)
	}
}

// told is what a command did to members of a volume.
type told struct {
	volume string
	count  uint64
	on     tally
}

// noteVolumes tells what a command did to members of volumes, in one event when these are
// many. text gets whose members it were.
func (s *State) noteVolumes(e Event, all []told, text func(t told, whose string) string) {
	if len(all) <= tellVolumes {
		for _, t := range all {
			e.Volume, e.Count = t.volume, t.count
			s.note(e, "%s", text(t, "volume "+t.volume))
		}
		return
	}
	sum := told{on: tally{}}
	for _, t := range all {
		sum.count += t.count
		for id, n := range t.on {
			sum.on[id] += n
		}
	}
	e.Count, e.Volumes = sum.count, uint64(len(all))
	s.note(e, "%s", text(sum, fmt.Sprintf("%d volumes", len(all))))
}

// noteFolded tells of members of a volume, as its client says. When those of many volumes
// said the same lately, one event tells of all, and takes the place of the one before.
func (s *State) noteFolded(e Event, what string) {
	volumes, last := map[string]bool{e.Volume: true}, -1
	for i := len(s.Events) - 1; i >= max(len(s.Events)-foldBack, 0); i-- {
		was := &s.Events[i]
		if was.Kind != e.Kind || s.now-was.At > foldWithin {
			continue
		}
		if was.Volume == "" {
			last = i
			break
		}
		volumes[was.Volume] = true
	}
	if last < 0 && len(volumes) <= tellVolumes {
		s.note(e, "%d members of volume %s %s", e.Count, e.Volume, what)
		return
	}
	name := e.Volume
	e.Volume = ""
	if last >= 0 {
		e.Count += s.Events[last].Count
		s.touched.Events[s.Events[last].Seq] = struct{}{}
		s.Events = slices.Delete(s.Events, last, last+1)
	}
	s.note(e, "%d members of many volumes %s, the last of volume %s", e.Count, what, name)
}

// LastEvent is the sequence number of the newest event; 0: none yet.
func (s *State) LastEvent() uint64 {
	if len(s.Events) == 0 {
		return 0
	}
	return s.Events[len(s.Events)-1].Seq
}

// EventsSince gives the events after a sequence number, oldest first, which
// the caller must not keep. missed is how many are not kept any more.
func (s *State) EventsSince(seq uint64) (events []Event, missed uint64) {
	if len(s.Events) == 0 {
		return nil, 0
	}
	at, _ := slices.BinarySearchFunc(s.Events, seq+1, func(e Event, seq uint64) int { return cmp.Compare(e.Seq, seq) })
	if first := s.Events[0].Seq; seq+1 < first {
		missed = first - seq - 1
	}
	return s.Events[at:], missed
}

// Event finds one by its number, for a store; nil when it is not kept any more.
func (s *State) Event(seq uint64) *Event {
	at, ok := slices.BinarySearchFunc(s.Events, seq, func(e Event, seq uint64) int { return cmp.Compare(e.Seq, seq) })
	if !ok {
		return nil
	}
	return &s.Events[at]
}

// tally counts members by server, to say it in a text.
type tally map[raid.ServerID]int

func (t tally) String() string {
	ids := make([]raid.ServerID, 0, len(t))
	for id := range t {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	text := ""
	for i, id := range ids {
		if i == tellServers && len(ids) > i+1 {
			return text + fmt.Sprintf(" and %d more", len(ids)-i)
		}
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%s (%d)", id, t[id])
	}
	return text
}

func (t tally) total() (n uint64) {
	for _, c := range t {
		n += uint64(c)
	}
	return n
}
