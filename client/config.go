package client

import (
	"errors"
	"log/slog"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// Config of a Volume. Layout, Lease and Dialer are required.
type Config struct {
	Layout *raid.Layout
	Lease  Lease
	Meta   Meta // nil: no lease is renewed and nobody is told (tests)
	Dialer transport.Dialer

	ArenaBytes     int64 // page buffers for requests in flight; 0: 64 MiB
	MaxOp          int   // pages of the largest request: the arena has room for it; 0 and above MaxOpPages: MaxOpPages
	NoFrontEnd     bool  // nobody reads or writes, the volume is only looked after: ArenaBytes does not count
	AllowSwappable bool  // go on when the buffers cannot be locked

	Holder string       // for the servers' logs
	Logger *slog.Logger // nil: slog.Default

	// AcceptLoss opens a volume although pages are gone of which not even the
	// number is known, so that older versions of them may be served.
	AcceptLoss bool

	// RebuildRate bounds what the servers pull for all members of this volume
	// that are being filled, together, in bytes a second. 0: only the servers'
	// own limits count. See Volume.SetRebuildRate.
	RebuildRate int64
	// RebuildGuard says how far rebuilds are held back while reads take longer
	// for them (guard.go).
	RebuildGuard GuardMode

	// ScrubEvery is how often the volume is scrubbed by itself; 0: never.
	// ScrubRate bounds it, as ScrubOptions.Rate. LastScrub is the last one that
	// went through, by an earlier client: the next is due from there; nil:
	// not known, and it is due from now.
	ScrubEvery time.Duration
	ScrubRate  int64
	LastScrub  *ScrubStatus

	// SuspectAfter is how long a member may be silent, while others answer,
	// before its session is ended and its rows are placed elsewhere.
	// 0: 150 ms.
	SuspectAfter time.Duration
	// HardDeadline ends the session of a member that is silent although
	// nobody else answers either: then it is as likely that this machine
	// stalls. 0: 3 s.
	HardDeadline time.Duration
	// Patience is how long a request waits for members that may come back,
	// when too few others are left. 0: 10 s.
	Patience time.Duration
	// DialTimeout bounds one attempt to reach a server. Time in which this
	// process did not run is not counted while the volume is opened. 0: 2 s.
	DialTimeout time.Duration

	nanotime func() int64 // what a standstill of this process is measured with; nil: nanotime (but in tests)
}

func (c *Config) fill() error {
	switch {
	case c.Layout == nil:
		return errors.New("opening a volume: no layout")
	case c.Dialer == nil:
		return errors.New("opening a volume: no transport")
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.SuspectAfter, 150*time.Millisecond)
	def(&c.HardDeadline, 3*time.Second)
	def(&c.Patience, 10*time.Second)
	def(&c.DialTimeout, 2*time.Second)
	if c.nanotime == nil {
		c.nanotime = nanotime
	}
	if c.ArenaBytes <= 0 {
		c.ArenaBytes = 64 << 20
	}
	if c.MaxOp <= 0 || c.MaxOp > MaxOpPages {
		c.MaxOp = MaxOpPages
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c.Layout.Validate()
}

// MapBytes is the most that the page map of a volume of that many pages takes,
// outside of the arena.
func MapBytes(pages uint64) int64 { return int64(16 * pages) }

// Batches of page-outs in flight. Two are enough for small ones, where the
// second is formed of what arrived while the first was under way; full ones
// may fill the links.
const (
	smallBatches = 2
	maxBatches   = 8
	cleanBatches = 2
)

// readyXfers is how many page-ins in flight the broker is ready for from the
// start: four queues of 128 requests, which is what the kernel's NBD has. More
// are allocated when they are first needed, and kept.
const readyXfers = 512

// units is the most pages that can be on their way in at a time.
func (c *Config) units() int {
	n := c.userBufs()                                            // one a buffer that is read into, or whose old content is
	n += cleanBatches * raid.MaxBatchPages * c.Layout.Geometry.K // what the cleaner reads
	return n
}

// userBufs is the number of buffers for the front ends.
func (c *Config) userBufs() int {
	if c.NoFrontEnd {
		return 1 // a pool is never empty
	}
	n := int(c.ArenaBytes / raid.PageSize)
	return max(n, c.MaxOp) // any single request can be served
}

// Buffers for the client's own work. What waits for one kind of it may need
// another kind to get on, so each has its own.

// scratchBufs is for eight runs being reconstructed.
func (c *Config) scratchBufs() int { return 8 * raid.MaxBatchPages * c.Layout.Geometry.K }

// mergeBufs is for the old content of sub-page writes.
func (c *Config) mergeBufs() int { return 64 }

// moveBufs is for the pages that the cleaner moves.
func (c *Config) moveBufs() int { return cleanBatches * raid.MaxBatchPages * c.Layout.Geometry.K }

// probeBufs is for one probe of a server on probation, and for headers that show
// that servers answer.
func (c *Config) probeBufs() int { return 2 * raid.MaxBatchPages }

// recordBufs is how many buffers the headers take that the eraser writes: of erased
// slots, and of views.
func (c *Config) recordBufs() int { return eraseSide*erasingBufs(c.Layout.Geometry) + viewSide }

// batchBufs is the number of buffers that batches own: parity and one page of
// notes each.
func (c *Config) batchBufs() int {
	return (maxBatches + cleanBatches) * (raid.MaxBatchPages*c.Layout.Geometry.M + 1)
}
