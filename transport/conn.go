package transport

import (
	"context"
	"errors"
	"time"
)

// PageSize is the size of a slot's page in bytes. MaxSegs is the most slots
// in one Request: 32 pages are the paper's transfer unit of 128 KiB.
const (
	PageSize = 4096
	MaxSegs  = 32
)

// Version of the protocol that this package speaks (docs/wire.md); VersionRails
// is spoken in sessions whose Hello names a Rail, and is the same otherwise. 1 to
// 4 were the same with slot headers of formats 1 and 2, and are not spoken any more.
const (
	Version      = 5
	VersionRails = 6
)

// Sentinels: each is a decision of the caller.
var (
	// ErrWindowFull: Submit was refused for lack of credit; submit again
	// after a completion.
	ErrWindowFull = errors.New("transport: window full")
	// ErrClosed: the session is over, by Close or because the peer or the
	// network ended it. The outcome of a write that completes with it is
	// unknown until a new session with that server has been accepted.
	ErrClosed = errors.New("transport: session closed")
	// ErrDeadline: the request was not answered in time and the session was
	// ended for it. Unknown outcome, as with ErrClosed. It wraps ErrClosed.
	ErrDeadline error = &deadlineError{}
	// ErrStaleEpoch: the server has seen a newer lease on the volume: stop
	// writing, this client has been replaced.
	ErrStaleEpoch = errors.New("transport: stale epoch")
	// ErrIncarnation: the server was restarted and holds nothing of what the
	// layout says: its members are lost.
	ErrIncarnation = errors.New("transport: other incarnation")
	// ErrNoChunk: the server has no such chunk, or the slot lies outside it.
	ErrNoChunk = errors.New("transport: no such chunk or slot")
	// ErrNoMemory: the server's arena is full.
	ErrNoMemory = errors.New("transport: server out of memory")
	// ErrChecksum: the server refused a page whose bytes do not match the
	// header, or a header that is damaged or names another slot, group or volume. It
	// stored nothing there: the slot reads as erased, or, when it was sent no page
	// or the chunk is InPlace, as it was before. The request's other segments were
	// stored. A one-sided write (package fabric) never ends so: what is
	// damaged shows when it is read.
	ErrChecksum = errors.New("transport: checksum mismatch")
	// ErrRefused: the server refused the handshake for good (cluster id,
	// version, authentication). The text says why.
	ErrRefused = errors.New("transport: session refused")
)

type deadlineError struct{}

func (*deadlineError) Error() string { return "transport: deadline passed, session closed" }
func (*deadlineError) Unwrap() error { return ErrClosed }

// Op is what a Request does.
type Op uint8

const (
	// OpRead fetches header and page of every segment.
	OpRead Op = iota + 1
	// OpWrite stores header and page of every segment. Until that is done, or
	// for good if it does not end, the slot is erased, and says that what it held
	// is dead. A new chunk is made of erased slots. A segment without page stores the header
	// only, and at once: the slot has its old header or the new one. In a chunk
	// that is InPlace a slot with page has the old or the new one too.
	OpWrite
	// OpReadHeaders fetches the headers of Count slots from Segs[0].Index on
	// into Segs[0].Header, which holds Count * header size bytes, at most
	// MaxHeadersBytes.
	OpReadHeaders
)

// MaxHeadersBytes bounds what one OpReadHeaders fetches.
const MaxHeadersBytes = 128 << 10

// Seg is one slot of a Request and the local memory it is read into or
// written from. Both slices lie in registered memory (Dialer.Register).
type Seg struct {
	Index  uint32 // slot inside the chunk
	Header []byte // exactly the chunk's header size
	Page   []byte // PageSize bytes, or nil (OpWrite: header only)
}

// Request is one vectored transfer between this machine and one chunk of one
// server.
//
// From Submit until Done is called the request and all memory that it names
// belong to the Conn: do not touch, resubmit or release them. That holds after
// a deadline and after Close too: Done is called when, and only when, nothing
// will read from or write to that memory any more.
type Request struct {
	Op    Op
	Chunk uint64 // chunk id, opened by OpenChunk
	Segs  []Seg  // 1..MaxSegs; neighbouring indexes in order transfer best
	Count int    // OpReadHeaders: number of headers

	// Deadline ends the whole session when this request has not completed
	// by then: on a reliable connection a late request is a late peer, and
	// only the end of the session makes its outcome knowable. Zero: none.
	Deadline time.Time

	// Done is called exactly once, on a goroutine of the Conn, with Err set.
	// It must not block; it may Submit. It is never called from inside
	// Submit or Kick.
	Done func(*Request)
	Err  error

	// User is for the caller; the Conn does not look at it.
	User any

	// Wire is scratch space of the Conn that holds the request, so that
	// submitting allocates nothing.
	Wire struct {
		ID    uint32
		Start int64 // monotonic nanoseconds at Submit
	}
}

// Conn is a session with one memory server on behalf of one volume.
//
// All methods may be called from any goroutine.
type Conn interface {
	// Submit queues r without starting it and never blocks. Errors:
	// ErrWindowFull, ErrClosed (Done is not called for either).
	Submit(r *Request) error
	// Kick starts what was submitted: the doorbell. One Kick for many
	// Submits is what makes batches cheap. It never blocks.
	Kick()
	// Window is the number of requests that may be in flight, granted by the
	// server at the handshake.
	Window() int
	// OpenChunk makes the server hold a chunk of slots slots with headers of
	// headerBytes each, zeroed if it is new. Idempotent. With inPlace slots
	// are overwritten while in use, so the server stages a page before it
	// touches the old one. Errors: ErrNoMemory, ErrClosed, ErrStaleEpoch,
	// ErrNoChunk (exists with another shape).
	OpenChunk(ctx context.Context, chunk uint64, spec ChunkSpec) error
	// Rebuild makes the server fill slots of its own chunk from other servers,
	// or verify them, and returns when that is over: minutes, with a low rate. Up to
	// RebuildsInFlight run at a time, further calls wait; other requests do not
	// wait for them. When ctx ends first, the server goes on, and the outcome
	// is unknown. Errors: ErrBadRebuild, ErrNoChunk (no such target, of another
	// shape, or a row outside), ErrRefused (the session is no owner's, or the
	// chunk is InPlace), ErrClosed, ErrStaleEpoch: the rows' outcome is unknown
	// with the last two. Rows that could not be had are no error, see
	// RebuildResult.
	Rebuild(ctx context.Context, spec *RebuildSpec) (RebuildResult, error)
	// Done is closed when the session is over and every request completed.
	// Err says why then.
	Done() <-chan struct{}
	Err() error
	// Close ends the session and returns when every submitted Request has
	// completed. Do not call it from a Done callback; use Abort there.
	Close() error
	// Abort ends the session like Close, without waiting.
	Abort(cause error)
}

// Carrier is a Conn that says what carries its pages, as the scheme of an
// address does: tcp, fabric+verbs. It need not be what the address asked for: a
// medium takes the best that both sides have.
type Carrier interface {
	Carrier() string
}

// Railed is a Conn with several rails.
type Railed interface {
	// Rails is how many of them carry requests now, and how many there are.
	Rails() (up, all int)
}

// ChunkSpec is the shape of a chunk.
type ChunkSpec struct {
	Slots       uint32
	HeaderBytes uint32
	Group       uint32 // of the volume: what its headers name, with volume and slot
	InPlace     bool
	// MustExist makes OpenChunk fail with ErrNoChunk instead of creating.
	MustExist bool
	// Release makes OpenChunk the opposite: this session will not use the
	// chunk any more, after what is in flight. Only then can the server give
	// its memory back while the session lasts. A chunk that the server does
	// not have is no error; the shape does not count.
	Release bool
}

// Mode is what a session may do.
type Mode uint8

const (
	// ModeOwner reads and writes under the volume's lease. A new owner
	// session ends every older one of the same volume at the server before
	// it is accepted, so that nothing of theirs can land later.
	ModeOwner Mode = iota
	// ModeReader only reads and ends nobody.
	ModeReader
)

// Hello is what a client says of itself in the handshake.
type Hello struct {
	Cluster     string // must be the server's
	Volume      uint64
	Epoch       uint64 // of the lease
	Incarnation uint64 // that the layout expects; 0 accepts any
	Mode        Mode
	Client      string // for the server's log
	Auth        []byte // reserved: no scheme is defined yet, must be empty
	Rail        Rail   // of an owner whose session has several; else zero
}

// MaxRails is the most addresses of a server, and so the most rails of a session.
const MaxRails = 8

// Rail says which part of a larger session a Hello is for: an owner has one for
// each address of the server (package rails). To the fence these are one. The zero
// value is a session that is all there is.
type Rail struct {
	// Session is drawn at random for the larger session; 0: there is none.
	Session uint64
	Index   uint8 // of the rail, below MaxRails
	// Attempt counts the dials of this rail, from 1 on: a hello that was under way
	// for longer than a later one is refused.
	Attempt uint32
	// Join makes the server refuse with ErrClosed unless the last owner that it
	// admitted was of the same Session, under the same epoch: else the larger
	// session is over. Where it was, only the older sessions with the same Index
	// are ended before this one is accepted: whoever is let in knows that nothing
	// of these can land any more. The first rail comes without Join, and all others
	// end.
	Join bool
}

// Welcome is the server's answer.
type Welcome struct {
	Server      string
	Incarnation uint64
	Window      int
}

// Dialer opens sessions over one medium. Implementations: tcp, fabric, mem,
// rails over several addresses of a server, and media for all of the network.
type Dialer interface {
	// Register makes mem usable in Segs of every Conn of this Dialer. Call
	// it once for each region, before Dial. The memory must not move or be
	// unmapped before the Dialer is closed; some media want it outside the Go
	// heap.
	Register(mem []byte) error
	// Dial connects and shakes hands. idle, when not nil, is called on a
	// goroutine of the Conn after it has called Done for a batch of requests
	// and before it waits for more: the place to Kick and to flush replies.
	// Errors: ErrRefused, ErrStaleEpoch, ErrIncarnation, or the network's.
	Dial(ctx context.Context, addr string, h Hello, idle func()) (Conn, Welcome, error)
	Close() error
}
