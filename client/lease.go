package client

import (
	"context"
	"errors"
	"time"

	"dmps/raid"
)

// Meta is what a client needs of the metadata service. It is asked when a
// volume is attached and detached and, in the background, to renew the lease:
// never on the page path. cmd passes in the implementation.
type Meta interface {
	// Attach takes the lease on a volume and returns its layout, whose Epoch
	// is the lease's. Errors: ErrInUse, ErrNoVolume.
	Attach(ctx context.Context, req AttachRequest) (*raid.Layout, Lease, error)
	// Renew extends the lease and brings what the client knows that meta
	// cannot: it is called every Lease.Renew, and at once when the report
	// changed for the worse. It gives the version of the layout, with what the
	// report's Rebuilt changed: when it is higher than the client's, Layout has
	// the new members. Errors: ErrFenced.
	Renew(ctx context.Context, volume raid.VolumeID, epoch raid.Epoch, r Report) (version uint64, err error)
	// Layout gives the present layout of a volume; its Epoch is that of the
	// newest lease, whoever has it, and FirstEpoch is never set. To whom has the
	// version since it may give only the groups that changed after it, and those that
	// reports named in Behind (raid.Layout Since); since 0 asks for all. Errors: ErrNoVolume.
	Layout(ctx context.Context, volume raid.VolumeID, since uint64) (*raid.Layout, error)
	// Detach gives the lease back after the last write.
	Detach(ctx context.Context, volume raid.VolumeID, epoch raid.Epoch) error
}

// AttachRequest asks for the lease of a volume.
type AttachRequest struct {
	Volume   string
	Holder   string // who: the same holder gets its own lease again at once, with a higher epoch
	AdminURL string // where the holder answers questions of its state; may be empty
	Takeover bool   // take it even from a living holder
	Care     bool   // take it only to rebuild a volume that nobody has attached and that needs it; any other attach ends it
}

// Lease is how long an attach is valid without renewal. A client whose lease
// has run out goes on paging: nobody else can have written before a higher
// epoch fenced this one at the servers.
type Lease struct {
	TTL   time.Duration
	Renew time.Duration
}

// Report is what a client tells meta, and anybody who asks, of its volume.
type Report struct {
	State          State            `json:"state"`
	Beside         State            `json:"state_beside_unknown,omitempty"` // what State were without Unknown: somebody may have accepted that, and this client not have heard of it; empty: the same
	DegradedGroups int              `json:"degraded_groups"`                // groups with fewer than K+M usable members with degraded rows, or with work left that a recovery or a loss has made urgent (raid.Health)
	DegradedRows   uint64           `json:"degraded_rows"`                  // rows in use that at least one member misses
	LostPages      uint64           `json:"lost_pages"`                     // pages that answer EIO
	Unknown        uint64           `json:"unknown_pages"`                  // at most so many pages are gone of which it is not known which they are: they read as zeros, and others perhaps as older versions
	RedundancyLeft int              `json:"redundancy_left"`                // how many more members the worst group can lose without losing data
	Suspect        []raid.ServerID  `json:"suspect"`                        // members that do not answer
	Probation      []raid.ServerID  `json:"probation,omitempty"`            // members that fall silent again and again: not used before 128 KiB pass each way
	MappedPages    uint64           `json:"mapped_pages"`
	FilledPages    uint64           `json:"filled_pages"`
	FreeRows       uint64           `json:"free_rows"`
	RebuildRows    uint64           `json:"rebuild_rows"`      // rows that replaced and pending members do not have yet
	Rebuilt        []raid.ChunkID   `json:"rebuilt,omitempty"` // chunks of members in state rebuilding that hold everything by now: repeated until the layout says so too
	Rebuild        *RebuildReport   `json:"rebuild,omitempty"` // nil: no member misses rows that it could be given now
	Refused        []RefusedMember  `json:"refused,omitempty"` // members whose servers have no memory for them, at most MaxRefused: the first by group
	Counters       map[string]int64 `json:"counters,omitempty"`

	BadSlots  map[raid.ServerID]int64 `json:"bad_slots,omitempty"`  // slots found wrong since the volume was opened, by reads and scrubs, by the server that held them
	Scrub     *ScrubStatus            `json:"scrub,omitempty"`      // the one that runs, or the last of this client; nil: none yet
	LastScrub *ScrubStatus            `json:"last_scrub,omitempty"` // the last that went through all rows, also of an earlier client; nil: not known
	// Behind are chunks of members that are about to miss rows which at most M
	// others hold. Renew notes it for the next client, as members that are being
	// rebuilt, before it answers: only then are such rows written.
	Behind []raid.ChunkID `json:"behind,omitempty"`
	Known  uint64         `json:"known,omitempty"` // version of the layout that the client knew: of what was decided later the report does not speak
}

// MaxRefused is how many members that were refused a report names.
const MaxRefused = 256

// RefusedMember is a member whose server answers, does not hold its chunk, and has no
// memory to make it. This client never had that chunk.
type RefusedMember struct {
	Group  raid.GroupID  `json:"group"`
	Column raid.Col      `json:"column"`
	Server raid.ServerID `json:"server"`
	Chunk  raid.ChunkID  `json:"chunk"`
}

// State of a volume as its client sees it.
type State string

const (
	StateHealthy  State = "healthy"
	StateDegraded State = "degraded" // everything is served; fewer than M further losses are survived
	StateFailed   State = "failed"   // some pages are gone, or cannot be written
)

// Sentinels of Meta.
var (
	ErrInUse    = errors.New("volume is attached elsewhere")       // detach it there, wait for the lease to run out, or take it over
	ErrNoVolume = errors.New("no such volume")                     // create it first
	ErrFenced   = errors.New("another client took the volume")     // stop: this client must not write any more
	ErrNoQuorum = errors.New("the metadata service has no leader") // try again later; paging goes on meanwhile
)
