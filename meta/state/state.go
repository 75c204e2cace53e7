package state

import (
	"cmp"
	"maps"
	"slices"

	"dmps/meta/level"
	"dmps/raid"
)

// ServerState is what the leader made of a server's heartbeats.
type ServerState uint8

const (
	ServerUp      ServerState = iota
	ServerSuspect             // missed heartbeats: gets no new chunks
	ServerDown                // missed them for the whole grace
)

func (s ServerState) String() string {
	switch s {
	case ServerUp:
		return "up"
	case ServerSuspect:
		return "suspect"
	default:
		return "down"
	}
}

// pastIncarnations is how many former lives of a server are remembered, so
// that a registration that was delayed does not bring one back while the
// present one lives.
const pastIncarnations = 8

// Server is a memory server.
type Server struct {
	ID          raid.ServerID           `json:"id"`
	Incarnation raid.Incarnation        `json:"incarnation"`
	Past        []raid.Incarnation      `json:"past,omitempty"` // newest last
	Addr        string                  `json:"addr"`
	Host        Host                    `json:"host,omitzero"` // where it runs
	Build       level.Build             `json:"build,omitzero"`
	Folder      string                  `json:"folder,omitempty"` // key of its state folder, that no two living servers have; empty: it has none
	Labels      map[string]string       `json:"labels,omitempty"` // host, rack, zone
	MemoryTotal uint64                  `json:"memory_total"`     // bytes of the arena
	State       ServerState             `json:"state"`
	Away        int64                   `json:"away,omitempty"`       // since when it is not up, Unix milliseconds; 0: it is
	Silent      int64                   `json:"silent,omitempty"`     // for how long leaders that could hear did not hear it, milliseconds, as of the last verdict; only while it is suspect
	Together    bool                    `json:"together,omitempty"`   // it fell silent with too many others, and gets more time; only while it is suspect
	Draining    bool                    `json:"draining,omitempty"`   // gets no chunks, and its members are moved away
	Short       bool                    `json:"short,omitempty"`      // its host is short of memory: gets no chunks, and some of its members are moved away
	Wanted      uint64                  `json:"wanted,omitempty"`     // bytes that it wants to have back; 0 unless Short
	Unverified  bool                    `json:"unverified,omitempty"` // since State.Recover: it has not said what it holds
	Chunks      uint64                  `json:"chunks"`               // of this incarnation, given to volumes
	Reserved    uint64                  `json:"reserved"`             // bytes of Chunks and Freeing. <= MemoryTotal when chunks are given out
	Freeing     map[raid.ChunkID]uint64 `json:"freeing,omitempty"`    // bytes of chunks of deleted volumes, until the server gave them back

	Unknown      uint64 `json:"unknown,omitempty"`       // chunks that it holds and that this state knows nothing of (State.Freed); they are kept
	UnknownBytes uint64 `json:"unknown_bytes,omitempty"` // memory that they take
}

// Free is how many bytes can be promised to volumes.
func (s *Server) Free() uint64 {
	if taken := s.Reserved + s.UnknownBytes; taken < s.MemoryTotal {
		return s.MemoryTotal - taken
	}
	return 0 // the server came back with less memory than was promised
}

// Member is one chunk of a group; the index in its Group is its column.
type Member struct {
	Server      raid.ServerID    `json:"s"`
	Incarnation raid.Incarnation `json:"i"`
	Chunk       raid.ChunkID     `json:"c"`
	State       raid.MemberState `json:"t,omitempty"`
	Home        raid.ServerID    `json:"h,omitempty"` // for which Server stands in; empty: it belongs there itself
}

// Pending is a member that will replace a living one, and is being filled.
// Its State is raid.MemberRebuilding.
type Pending struct {
	Col    raid.Col `json:"col"`
	Member Member   `json:"m"`               // Home is empty
	Stays  bool     `json:"stays,omitempty"` // it will belong there; else the column belongs where it did
}

// Group is the K+M chunks of one group.
type Group struct {
	Members []Member  `json:"m"`
	Pending []Pending `json:"p,omitempty"`     // ascending by Col, of members that are not lost
	Since   int64     `json:"since,omitempty"` // since when a member is not in sync, Unix milliseconds; 0: all are
}

// pending gives the index in Pending of a column's.
func (g *Group) pending(c int) (at int, ok bool) {
	return slices.BinarySearchFunc(g.Pending, raid.Col(c), func(p Pending, c raid.Col) int { return cmp.Compare(p.Col, c) })
}

// whole reports whether all members are in sync.
func (g *Group) whole() bool {
	return !slices.ContainsFunc(g.Members, func(m Member) bool { return m.State != raid.MemberInSync })
}

// Lease is the sole right to write a volume. Its expiry is the leader's
// business: it is over only when another one is given out, or on Detach.
type Lease struct {
	Holder string      `json:"holder"`
	Epoch  raid.Epoch  `json:"epoch"`
	Admin  string      `json:"admin,omitempty"`
	Host   Host        `json:"host,omitzero"`
	Build  level.Build `json:"build,omitzero"` // of the holder
	Care   bool        `json:"care,omitempty"` // of a memory server that rebuilds what nobody has attached: gives way to any other
}

// Report is the part of a client's report that must survive a change of
// leader: what makes the volume look worse than its servers do.
type Report struct {
	State          string          `json:"state"` // healthy, degraded or failed, Unknown aside
	DegradedGroups uint64          `json:"degraded_groups"`
	DegradedRows   uint64          `json:"degraded_rows"`
	LostPages      uint64          `json:"lost_pages"`
	Unknown        uint64          `json:"unknown,omitempty"` // at most so many pages are gone, and nobody knows which: kept until a client says 0, which every client is told what to begin with
	RedundancyLeft int             `json:"redundancy_left"`
	Suspect        []raid.ServerID `json:"suspect,omitempty"`
	RebuildRows    uint64          `json:"rebuild_rows,omitempty"`
	LastScrub      *Scrub          `json:"last_scrub,omitempty"` // also of an earlier lease; nil: none is known
}

// Scrub is what is remembered of the last scrub that went through a volume:
// the next one is due from there.
type Scrub struct {
	Started       int64  `json:"started"` // Unix milliseconds, by the client's clock, as Finished
	Finished      int64  `json:"finished"`
	Slots         uint64 `json:"slots"` // verified
	Skipped       uint64 `json:"skipped,omitempty"`
	SkippedReason string `json:"skipped_reason,omitempty"`
	Bad           uint64 `json:"bad,omitempty"`
	Repaired      uint64 `json:"repaired,omitempty"`
	Unrepairable  uint64 `json:"unrepairable,omitempty"`
}

// Stuck is why members of a volume are not replaced.
type Stuck struct {
	Members uint64 `json:"members"`
	Reason  string `json:"reason"`         // of one of them, for people
	Room    bool   `json:"room,omitempty"` // some of them find no place; else all wait for members that are away, or for nothing
}

// Volume is a device and where its pages may lie.
type Volume struct {
	ID         raid.VolumeID   `json:"id"`
	Name       string          `json:"name"`
	Kind       raid.LayoutKind `json:"kind"`
	Geometry   raid.Geometry   `json:"geometry"`
	Pages      uint64          `json:"pages"`
	ChunkSlots uint32          `json:"chunk_slots"`
	MinAck     int             `json:"min_ack"`
	TargetFill int             `json:"target_fill"` // percent
	Domain     Level           `json:"domain"`      // members of a group never share one
	PlacedBy   Level           `json:"placed_by"`   // nor one of these: Domain or coarser
	Aim        Level           `json:"aim"`         // what PlacedBy was at first, and will be again when servers make that possible
	Created    int64           `json:"created"`     // Unix milliseconds, by the leader's clock
	Request    string          `json:"request"`     // id of the call that created it
	Epoch      raid.Epoch      `json:"epoch"`       // only grows: with every lease
	Version    uint64          `json:"version"`     // only grows: with every change of the groups
	LastLease  raid.Epoch      `json:"last_lease"`  // epoch of the newest lease; 0: never attached. <= Epoch
	Lease      *Lease          `json:"lease,omitempty"`
	Report     *Report         `json:"report,omitempty"`     // of the newest lease that reported
	Unopened   bool            `json:"unopened,omitempty"`   // no client has said that it opened it: nothing was ever written
	Untouched  bool            `json:"untouched,omitempty"`  // nobody had opened it when the state was recovered
	Behind     uint64          `json:"behind,omitempty"`     // Version when members in sync last fell behind. <= Version
	UnknownAt  int64           `json:"unknown_at,omitempty"` // since when Report says so of pages, Unix milliseconds; 0: it does not
	Accepted   uint64          `json:"accepted,omitempty"`   // Version when somebody last accepted such a loss: reports of who knows an older one do not count for it
	Stuck      *Stuck          `json:"stuck,omitempty"`      // nil: all that is to be replaced is, or will be

	Groups []*Group `json:"-"` // stored by themselves
}

// Unknown is how many pages at most are gone of which nobody knows which they are.
func (v *Volume) Unknown() uint64 {
	if v.Report == nil {
		return 0
	}
	return v.Report.Unknown
}

// fresh reports whether nobody has anything in the volume, and nobody is about to.
func (v *Volume) fresh() bool { return v.Unopened && v.Lease == nil }

// chunkBytes is the memory that one chunk of column c takes of a server.
func (v *Volume) chunkBytes(c int) uint64 {
	return ChunkBytes(v.Geometry, v.ChunkSlots, raid.Col(c))
}

// Reserved is the memory that the volume has on servers, lost members aside.
func (v *Volume) Reserved() uint64 {
	var n uint64
	for _, g := range v.Groups {
		for c, m := range g.Members {
			if m.State != raid.MemberLost {
				n += v.chunkBytes(c)
			}
		}
		for _, p := range g.Pending {
			n += v.chunkBytes(int(p.Col))
		}
	}
	return n
}

// Node is a meta node, so that each knows where the leader's API is.
type Node struct {
	ID   string `json:"id"` // Raft's: name and a random part
	Name string `json:"name"`
	API  string `json:"api"`
	Raft string `json:"raft"`

	Build level.Build `json:"build,omitzero"`
}

// ChunkRef says whose a chunk is.
type ChunkRef struct {
	Volume  raid.VolumeID
	Group   raid.GroupID
	Col     raid.Col
	Pending bool // it is the column's pending member
}

// State is all that the metadata service has decided.
type State struct {
	Cluster    string
	NextVolume raid.VolumeID // ids below were given out, once
	NextChunk  raid.ChunkID  // ids below were given out, once, or lie in a gap
	Servers    map[raid.ServerID]*Server
	Volumes    map[raid.VolumeID]*Volume
	Nodes      map[string]*Node
	Events     []Event  // ascending by Seq, the newest maxEvents
	Balance    *Balance // nil: memory use is not being evened out

	// Level is that of the cluster: what commands and records may hold, and how they are
	// carried out (package level). It only grows, by Raise.
	Level   level.Level
	LevelBy string // version that it was raised with, or begun with; empty: unknown

	// Generation grows each time that the state was restored or recovered: it is 1 at
	// first, then the time of that in Unix milliseconds, or one more than before if
	// the clock is behind. Nobody listens to who is of an older one.
	Generation uint64
	// Gaps are ids of chunks that may have been given out by decisions that this state
	// forgot (Recover), ascending. Whose they are it does not know.
	Gaps []Gap

	byName  map[string]raid.VolumeID
	chunks  map[raid.ChunkID]ChunkRef // every chunk in a group that is not lost
	lost    int                       // members that are lost
	index   index
	now     int64 // of the command that is carried out, Unix milliseconds
	touched Touched
}

// New gives the state before the first command.
func New() *State {
	return &State{
		NextVolume: 1, NextChunk: 1, Generation: 1, Level: 1,
		Servers: map[raid.ServerID]*Server{},
		Volumes: map[raid.VolumeID]*Volume{},
		Nodes:   map[string]*Node{},
		byName:  map[string]raid.VolumeID{},
		chunks:  map[raid.ChunkID]ChunkRef{},
		index:   newIndex(),
		touched: newTouched(),
	}
}

// Reindex rebuilds what follows from the records, after they were read.
func (s *State) Reindex() {
	clear(s.byName)
	clear(s.chunks)
	s.lost = 0
	s.index = newIndex()
	for _, v := range s.Volumes {
		s.byName[v.Name] = v.ID
		s.indexChunks(v)
		s.index.include(v)
	}
	s.complete()
	for id := range s.Servers {
		s.touchServer(id)
	}
	// The index alone: what State.settle decides the other replicas would not have.
	s.settleViews(s.index.dirty)
	s.index.settle(s.Volumes)
	s.touched = newTouched()
}

// complete fills in what records of older versions do not have. Every replica
// does the same at every start, so it need not be written.
func (s *State) complete() {
	const unknown = 1 // a time that nobody noted
	for _, sv := range s.Servers {
		if sv.State != ServerUp && sv.Away == 0 {
			sv.Away = unknown
		}
	}
	for _, v := range s.Volumes {
		v.Version = max(v.Version, 1)
		if !slices.Contains(v.PlacedBy.wider(), v.Aim) {
			v.Aim = v.PlacedBy
		}
		v.Unopened = v.Unopened || v.LastLease == 0
		for _, g := range v.Groups {
			if g.Since == 0 && !g.whole() {
				g.Since = unknown
			}
		}
	}
}

func (s *State) indexChunks(v *Volume) {
	for g, group := range v.Groups {
		for c, m := range group.Members {
			if m.State == raid.MemberLost {
				s.lost++
				continue
			}
			s.chunks[m.Chunk] = ChunkRef{Volume: v.ID, Group: raid.GroupID(g), Col: raid.Col(c)}
		}
		for _, p := range group.Pending {
			s.chunks[p.Member.Chunk] = ChunkRef{Volume: v.ID, Group: raid.GroupID(g), Col: p.Col, Pending: true}
		}
	}
}

// VolumeByName finds a volume.
func (s *State) VolumeByName(name string) (*Volume, bool) {
	id, ok := s.byName[name]
	return s.Volumes[id], ok
}

// Gap is the ids from From on, To not among them.
type Gap struct {
	From raid.ChunkID `json:"from"`
	To   raid.ChunkID `json:"to"`
}

// Freed reports whether this state itself once gave a chunk out and took it back: it
// is nobody's and never will be anybody's. Of what else has no owner it cannot tell.
func (s *State) Freed(c raid.ChunkID) bool {
	if _, owned := s.chunks[c]; owned || c >= s.NextChunk {
		return false
	}
	return !slices.ContainsFunc(s.Gaps, func(g Gap) bool { return g.From <= c && c < g.To })
}

// Owner finds whose a chunk is.
func (s *State) Owner(c raid.ChunkID) (ChunkRef, bool) {
	ref, ok := s.chunks[c]
	return ref, ok
}

// SortedServers lists the servers by id.
func (s *State) SortedServers() []*Server {
	return slices.SortedFunc(maps.Values(s.Servers), func(a, b *Server) int { return cmp.Compare(a.ID, b.ID) })
}

// SortedVolumes lists the volumes by id.
func (s *State) SortedVolumes() []*Volume {
	return slices.SortedFunc(maps.Values(s.Volumes), func(a, b *Volume) int { return cmp.Compare(a.ID, b.ID) })
}

// GroupKey names a group's record.
type GroupKey struct {
	Volume raid.VolumeID
	Group  raid.GroupID
}

func (k GroupKey) Compare(o GroupKey) int {
	return cmp.Or(cmp.Compare(k.Volume, o.Volume), cmp.Compare(k.Group, o.Group))
}

// Touched is the records that commands changed, made or removed: those that
// are in the State now are to be written, the others deleted. Root is the
// cluster id and the counters.
type Touched struct {
	Root    bool
	Servers map[raid.ServerID]struct{}
	Volumes map[raid.VolumeID]struct{}
	Groups  map[GroupKey]struct{}
	Nodes   map[string]struct{}
	Events  map[uint64]struct{}
}

func newTouched() Touched {
	return Touched{
		Servers: map[raid.ServerID]struct{}{},
		Volumes: map[raid.VolumeID]struct{}{},
		Groups:  map[GroupKey]struct{}{},
		Nodes:   map[string]struct{}{},
		Events:  map[uint64]struct{}{},
	}
}

// TakeTouched gives what was touched since it was called last.
func (s *State) TakeTouched() Touched {
	t := s.touched
	s.touched = newTouched()
	return t
}

func (s *State) touchServer(id raid.ServerID) {
	s.touched.Servers[id] = struct{}{}
	s.index.views.touched[id] = struct{}{}
}
func (s *State) touchVolume(id raid.VolumeID) { s.touched.Volumes[id] = struct{}{} }
func (s *State) touchNode(id string)          { s.touched.Nodes[id] = struct{}{} }
func (s *State) touchGroup(v raid.VolumeID, g int) {
	k := GroupKey{v, raid.GroupID(g)}
	if n := len(s.index.dirty); n > 0 && s.index.dirty[n-1] == k {
		return // for another of its members
	}
	s.touched.Groups[k] = struct{}{}
	s.index.dirty = append(s.index.dirty, k)
}
