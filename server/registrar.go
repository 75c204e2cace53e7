package server

import (
	"context"
	"time"

	"dmps/raid"
)

// Registrar is what a memory server needs of the metadata service. cmd passes
// in the implementation.
type Registrar interface {
	// Register announces this life of the server. It is called at start and
	// again whenever Heartbeat says that meta does not know the server.
	Register(ctx context.Context, info Info) error
	// Heartbeat reports that the server lives and what it holds. The reply
	// lists chunks that belong to nobody any more, to be given back.
	Heartbeat(ctx context.Context, hb Heartbeat) (HeartbeatReply, error)
}

// Info is what a server says of itself.
type Info struct {
	ID          raid.ServerID
	Incarnation raid.Incarnation
	Addr        string            // transport address, such as tcp://host:port
	Labels      map[string]string // host, rack, zone
	MemoryTotal uint64            // bytes of the arena
	Cluster     string            // empty at the very first start: meta answers with its own
}

// Heartbeat is sent every second or so.
type Heartbeat struct {
	ID          raid.ServerID
	Incarnation raid.Incarnation
	MemoryTotal uint64
	MemoryUsed  uint64
	Chunks      []raid.ChunkID
	Owned       []raid.VolumeID // whose owner has a session: somebody pages, whether or not meta hears of him
	Short       bool            // the host is short of memory: move chunks away, and lend none of this server's any more
	WantedFree  uint64          // bytes of chunks that would help; 0 unless Short
	// NotAccepting says that nobody gets a new session here. For all but those who
	// have one the server is as good as silent.
	NotAccepting bool
	// ChunksHash is of Chunks. Unchanged: Chunks is left out, it is the last list that was
	// sent, which had this hash.
	ChunksHash      uint64
	ChunksUnchanged bool
	About           []ChunkAbout // of chunks that the last answer asked about
}

// ChunkAbout is what the server knows of a chunk. Which column of its group it is it does
// not know.
type ChunkAbout struct {
	Chunk  raid.ChunkID
	Volume raid.VolumeID
	Group  raid.GroupID
	Bytes  uint64 // that it takes
	Made   time.Time
}

// HeartbeatReply is meta's answer.
type HeartbeatReply struct {
	Unknown bool // meta does not know this incarnation: Register
	// ListChunks says that the list which was left out is not known: a leader that is new
	// has none.
	ListChunks bool
	Drop       []raid.ChunkID // deleted volumes' chunks: give the memory back
	Cluster    string
	Describe   []raid.ChunkID // the next heartbeat is to say what these are
	Care       []CareOffer    // volumes that nobody has attached and that need to be rebuilt
}

// CareOffer is a volume that needs somebody to rebuild it.
type CareOffer struct {
	Volume string // name
	Pages  uint64 // of the volume: what its page map is measured by
}
