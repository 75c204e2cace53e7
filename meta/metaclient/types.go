package metaclient

import (
	"time"

	"dmps/client"
	"dmps/raid"
)

// VolumeSpec asks for a volume. Zero values are the defaults.
type VolumeSpec struct {
	Name          string          // 1 to 63 of a-z A-Z 0-9 . _ -
	Size          uint64          // bytes, rounded up to a page
	Redundancy    raid.Geometry   // required; K of 1 alone is none
	Kind          raid.LayoutKind // log, linear or striped
	FailureDomain string          // server, host, rack or zone: what members of a group must not share; empty: host
	TargetFill    int             // percent of the slots in use when the volume is full; 0: 80, in place 100
	MinAck        int             // members that must hold a row before it is answered, K or more; 0: K
	ChunkBytes    uint64          // page bytes of a chunk, a power of two; 0: chosen
}

// Status is the cluster as the leader knows it.
type Status struct {
	Cluster string   `json:"cluster"`
	Level   uint32   `json:"level"` // of the cluster: what it uses (Client.RaiseLevel)
	Volumes []Volume `json:"volumes"`
	Servers []Server `json:"servers"`
	Meta    []Node   `json:"meta"`

	Rebalancing *Rebalancing `json:"rebalancing,omitempty"` // nil: memory use is not being evened out
	Copysets    Copysets     `json:"copysets"`

	Unreachable []Unreachable `json:"unreachable_servers"`
}

// UnknownChunk is a chunk that a server holds and that the metadata did not give out.
type UnknownChunk struct {
	Chunk  raid.ChunkID  `json:"chunk"`
	Volume raid.VolumeID `json:"volume_id"`        // 0: the server has not said yet what it is
	Name   string        `json:"volume,omitempty"` // empty: the metadata has no volume of that id
	Group  raid.GroupID  `json:"group"`
	Bytes  uint64        `json:"bytes"`         // that it takes
	Made   time.Time     `json:"made,omitzero"` // by the server's clock
}

// Unreachable is a memory server that the leader did not find where it says that it is.
type Unreachable struct {
	ID     raid.ServerID `json:"id"`
	Addr   string        `json:"addr"` // of its addresses, one where it was not found
	Reason string        `json:"reason"`
	Up     bool          `json:"up"` // it answers at another address; else it was refused, and gets no chunks
}

// Copysets is how groups with redundancy lie on servers.
type Copysets struct {
	Sets     uint64  `json:"sets"`             // combinations of servers that share groups
	Repairs  uint64  `json:"by_repairs"`       // of these: made by repairs and moves, until their members are home again
	Away     uint64  `json:"members_away"`     // members that are not on the servers where they belong
	Failures uint64  `json:"failures"`         // servers of Loss
	Loss     float64 `json:"loss_probability"` // that data is lost when so many servers fail at once, any of them
}

// Rebalancing is how evening out the servers' memory use goes.
type Rebalancing struct {
	Threshold int    `json:"threshold_percent"` // between the fullest and the emptiest that is good enough
	Moved     uint64 `json:"moved_members"`
}

// Loss is what a volume loses with a server.
type Loss struct {
	Volume         string `json:"volume"` // name
	Members        uint64 `json:"members"`
	GroupsLost     uint64 `json:"groups_lost"`     // groups whose data is gone with it
	GroupsAway     uint64 `json:"groups_away"`     // groups whose data is out of reach with it, and gone if servers that are away do not come back
	RedundancyLeft int    `json:"redundancy_left"` // further losses that the worst of these groups survives with the servers that are up; below 0: its data is out of reach or gone
}

// Event is something that happened, and why.
type Event struct {
	Seq    uint64        `json:"seq"` // only grows
	At     time.Time     `json:"at"`  // by the clock of the leader of that time
	Kind   string        `json:"kind"`
	Server raid.ServerID `json:"server,omitempty"`
	Volume string        `json:"volume,omitempty"` // name
	Count  uint64        `json:"count,omitempty"`  // of members
	Text   string        `json:"text"`             // for people

	Volumes uint64 `json:"volumes,omitempty"` // how many it concerns, where Volume is empty; 0: none, or that was not counted
}

// EventPage is the events after one that is known.
type EventPage struct {
	Events []Event `json:"events"` // oldest first
	Missed uint64  `json:"missed"` // events before them that are not kept any more
	Last   uint64  `json:"last"`   // Seq of the newest event of all
}

// State is the worst state of all volumes: healthy when there is none.
func (s *Status) State() client.State {
	worst := client.StateHealthy
	for _, v := range s.Volumes {
		switch {
		case v.State == client.StateFailed:
			return client.StateFailed
		case v.State == client.StateDegraded:
			worst = client.StateDegraded
		}
	}
	return worst
}

// Volume is what meta knows of a volume, merged with the last report of its
// client: the worse of the two.
type Volume struct {
	ID             raid.VolumeID  `json:"id"`
	Name           string         `json:"name"`
	State          client.State   `json:"state"`
	Redundancy     string         `json:"redundancy"`
	Layout         string         `json:"layout"`
	Size           uint64         `json:"size_bytes"`
	Groups         uint64         `json:"groups"`
	DegradedGroups uint64         `json:"degraded_groups"`
	RedundancyLeft int            `json:"redundancy_left"` // further losses that the worst group survives; below 0: data is out of reach
	TargetFill     int            `json:"target_fill"`     // percent
	MinAck         int            `json:"min_ack"`
	ChunkBytes     uint64         `json:"chunk_bytes"`    // page bytes of a chunk
	Reserved       uint64         `json:"reserved_bytes"` // memory promised on servers
	FailureDomain  string         `json:"failure_domain"` // asked for
	PlacedBy       string         `json:"placed_by"`      // given: the same level or a coarser one
	Created        time.Time      `json:"created"`
	Version        uint64         `json:"version"`                // of the layout
	Rebuilding     uint64         `json:"rebuilding_members"`     // replacements of lost members that are being filled
	Pending        uint64         `json:"pending_members"`        // replacements of living members that are being filled
	RebuildRows    uint64         `json:"rebuild_rows"`           // rows that they do not have yet, as reported
	AtRiskSince    time.Time      `json:"at_risk_since,omitzero"` // since when a group misses a member; zero: none does, or nobody noted it
	StuckMembers   uint64         `json:"stuck_members"`          // members that should be replaced and cannot be
	StuckReason    string         `json:"stuck_reason,omitempty"` // why, for one of them
	Unknown        uint64         `json:"unknown_pages"`          // at most so many pages are gone of which nobody knows which they are
	UnknownSince   time.Time      `json:"unknown_since,omitzero"` // since when that is so
	BereftGroups   uint64         `json:"bereft_groups"`          // groups of which fewer members hold their data than are needed, those on servers that are away included
	EmptyGroups    uint64         `json:"empty_groups"`           // of these: groups of which no member is left
	Lease          *Lease         `json:"lease,omitempty"`        // nil: not attached
	Report         *client.Report `json:"report,omitempty"`       // nil: none yet
}

// RebuildAnswer is what Rebuild did.
type RebuildAnswer struct {
	Volume      Volume          `json:"volume"`                 // after it
	Replaced    uint64          `json:"replaced_members"`       // that got a replacement by this call
	Waiting     uint64          `json:"waiting_members"`        // whose turn comes when others are filled: ask again
	Stuck       uint64          `json:"stuck_members"`          // that cannot be replaced
	StuckReason string          `json:"stuck_reason,omitempty"` // why, for one of them
	Suspect     []raid.ServerID `json:"suspect"`                // servers that were given up although the grace has not passed
}

// Lease is who may write a volume.
type Lease struct {
	Holder    string        `json:"holder"`
	Epoch     raid.Epoch    `json:"epoch"`
	AdminURL  string        `json:"admin_url,omitempty"`
	Remaining time.Duration `json:"remaining_ns"`      // 0: it has run out, anybody may take it
	Build     Build         `json:"build,omitzero"`    // of the holder
	Machine   string        `json:"machine,omitempty"` // of the holder
	Boot      string        `json:"boot,omitempty"`    // of the machine
	Care      bool          `json:"care"`              // the holder is a memory server that rebuilds what nobody has attached: any attach gets the lease at once
}

// Server states.
const (
	ServerUp       = "up"
	ServerSuspect  = "suspect"  // missed heartbeats
	ServerDown     = "down"     // missed them for the whole grace
	ServerDraining = "draining" // up, and its members are moved away
	ServerShort    = "short"    // up, and short of memory: some of its members are moved away
)

// Server is a memory server as meta knows it.
type Server struct {
	ID             raid.ServerID     `json:"id"`
	Incarnation    raid.Incarnation  `json:"incarnation"`
	Addr           string            `json:"addr"`
	Labels         map[string]string `json:"labels,omitempty"`
	State          string            `json:"state"`
	MemoryTotal    uint64            `json:"memory_total"`      // bytes of the arena
	MemoryUsed     uint64            `json:"memory_used"`       // bytes, as of the last heartbeat
	MemoryReserved uint64            `json:"memory_reserved"`   // bytes promised to volumes
	Chunks         uint64            `json:"chunks"`            // promised to volumes
	UnknownChunks  uint64            `json:"unknown_chunks"`    // that it holds and the metadata did not give out; they are kept
	UnknownBytes   uint64            `json:"unknown_bytes"`     // memory that these take
	Machine        string            `json:"machine,omitempty"` // where it runs
	Boot           string            `json:"boot,omitempty"`    // of the machine
	Build          Build             `json:"build,omitzero"`
	Draining       bool              `json:"draining"`            // whatever its state
	AwaySince      time.Time         `json:"away_since,omitzero"` // since when it is not up; zero: it is, or nobody noted it
	HeldUntil      time.Time         `json:"held_until,omitzero"` // it fell silent with too many others, and counts as down only then; zero: it did not
}

// Node is a meta node.
type Node struct {
	Name     string `json:"name"`
	ID       string `json:"id"` // name and a random part, new with every empty disk
	APIURL   string `json:"api"`
	RaftAddr string `json:"raft"`
	Leader   bool   `json:"leader"`
	Voter    bool   `json:"voter"`
	Build    Build  `json:"build,omitzero"`
}
