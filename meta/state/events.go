package state

import (
	"cmp"
	"fmt"
	"slices"

	"dmps/raid"
)

// maxEvents is how many events are kept: some hundred KiB, and hours of a
// cluster in trouble, because what befalls many members at once is one event
// a volume.
const maxEvents = 4096

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
