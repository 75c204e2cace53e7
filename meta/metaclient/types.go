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
	Redundancy    raid.Geometry   // the zero value is none
	Kind          raid.LayoutKind // log, linear or striped
	FailureDomain string          // server, host, rack or zone: what members of a group must not share; empty: host
	TargetFill    int             // percent of the slots in use when the volume is full; 0: 80, in place 100
	MinAck        int             // members that must hold a row before it is answered, K or more; 0: K
	ChunkBytes    uint64          // page bytes of a chunk, a power of two; 0: chosen
}

// Status is the cluster as the leader knows it.
type Status struct {
	Cluster string   `json:"cluster"`
	Volumes []Volume `json:"volumes"`
	Servers []Server `json:"servers"`
	Meta    []Node   `json:"meta"`
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
	Lease          *Lease         `json:"lease,omitempty"`  // nil: not attached
	Report         *client.Report `json:"report,omitempty"` // nil: none yet
}

// Lease is who may write a volume.
type Lease struct {
	Holder    string        `json:"holder"`
	Epoch     raid.Epoch    `json:"epoch"`
	AdminURL  string        `json:"admin_url,omitempty"`
	Remaining time.Duration `json:"remaining_ns"` // 0: it has run out, anybody may take it
}

// Server states.
const (
	ServerUp      = "up"
	ServerSuspect = "suspect" // missed heartbeats
	ServerDown    = "down"    // missed them for the whole grace
)

// Server is a memory server as meta knows it.
type Server struct {
	ID             raid.ServerID     `json:"id"`
	Incarnation    raid.Incarnation  `json:"incarnation"`
	Addr           string            `json:"addr"`
	Labels         map[string]string `json:"labels,omitempty"`
	State          string            `json:"state"`
	MemoryTotal    uint64            `json:"memory_total"`    // bytes of the arena
	MemoryUsed     uint64            `json:"memory_used"`     // bytes, as of the last heartbeat
	MemoryReserved uint64            `json:"memory_reserved"` // bytes promised to volumes
	Chunks         uint64            `json:"chunks"`          // promised to volumes
}

// Node is a meta node.
type Node struct {
	Name     string `json:"name"`
	ID       string `json:"id"` // name and a random part, new with every empty disk
	APIURL   string `json:"api"`
	RaftAddr string `json:"raft"`
	Leader   bool   `json:"leader"`
	Voter    bool   `json:"voter"`
}
