package transport

import "context"

// Backend is a memory server as the server sides of the media see it: package
// server implements it, tcp.Server and mem.Network drive it.
type Backend interface {
	// Open admits a session or refuses it with one of ErrRefused,
	// ErrStaleEpoch, ErrIncarnation. Before it returns, every older owner
	// session that h ends has been Closed.
	//
	// stop is called at most once, from any goroutine, when this session is to
	// end. It must not block; the medium then makes no new call, ends the one
	// that it is in (receiving a page, perhaps) and calls Close. cause is for
	// the client.
	Open(ctx context.Context, h Hello, stop func(cause error)) (Session, Welcome, error)
}

// Session is one client's session in a Backend. All methods except EndRead and
// Rebuild are called by one goroutine at a time.
type Session interface {
	// OpenChunk is Conn.OpenChunk.
	OpenChunk(chunk uint64, spec ChunkSpec) error
	// BeginWrite checks io and sets io.Mem to where its pages are to be
	// received. Slots that get a page are erased from now on, except in a chunk
	// that is InPlace; those that get a header alone stay as they are until
	// CommitWrite. It is followed by CommitWrite or AbortWrite, unless it fails.
	BeginWrite(io *SlotIO) error
	// CommitWrite verifies the received pages and stores their headers.
	CommitWrite(io *SlotIO) error
	// AbortWrite gives up a write whose pages did not arrive. The slots are as
	// BeginWrite has left them.
	AbortWrite(io *SlotIO)
	// BeginRead checks io, copies the headers into io.Headers and sets io.Mem
	// to the pages. The memory stays until EndRead, but not its content.
	BeginRead(io *SlotIO) error
	// BeginReadHeaders sets io.Mem to the headers of the slots of io.Runs[0],
	// which stay until EndRead.
	BeginReadHeaders(io *SlotIO) error
	// EndRead ends a read. It may be called from any goroutine, and after Close.
	EndRead(io *SlotIO)
	// Rebuild is Conn.Rebuild; spec was validated. The medium calls it on
	// goroutines of their own, beside all other methods and itself, at most
	// RebuildsInFlight at a time. ctx must end with the session; Rebuild
	// returns soon after. It stores nothing after Close has returned.
	Rebuild(ctx context.Context, spec *RebuildSpec) (RebuildResult, error)
	// Close tells that no memory that BeginWrite gave will be touched any more.
	Close()
}

// Exposer is a Session whose chunks can be reached by one-sided transfers, which
// its CPU does not see. A medium asks for it by a type assertion.
//
// What the Session promises of BeginWrite and CommitWrite does not hold there:
// nobody verifies the page or counts the request. The client erases a slot, then
// writes the page, then the header that vouches for it, and compares both when it
// reads. A header without a page it only writes.
type Exposer interface {
	// Expose gives the memory of a chunk: to an owner one that this session has
	// opened, to a reader any of its volume, to read only. It is the medium's until
	// it calls OpenChunk with Release for that chunk, or Close: before either it
	// makes sure that no transfer touches it any more. A reader's session is
	// stopped when the memory is wanted back. Errors: ErrNoChunk; ErrRefused (the
	// chunk is InPlace, where pages are staged first); ErrStaleEpoch or ErrClosed,
	// when the session is over.
	Expose(chunk uint64) (Exposed, error)
}

// Exposed is the memory of a chunk: the pages of all slots, and the headers.
type Exposed struct {
	Spec     ChunkSpec
	Pages    []byte // Spec.Slots * PageSize
	Headers  []byte // Spec.Slots * Spec.HeaderBytes
	ReadOnly bool   // no transfer may write to it
}

// Run is a run of neighbouring slots.
type Run struct {
	Start uint32 // first slot
	Count uint32 // slots, at least 1
}

// MaxHeaderBytes bounds the size of a slot's header, in bytes.
const MaxHeaderBytes = 1024

// SlotIO is one transfer as a Backend sees it. The medium keeps and reuses it.
type SlotIO struct {
	Chunk       uint64
	HeaderBytes int      // of one slot, as the client believes
	Runs        []Run    // the slots, in the order of the segments
	Segs        int      // sum of the runs' counts, 1..MaxSegs
	PageMask    uint32   // bit i: segment i has a page
	Headers     []byte   // Segs * HeaderBytes
	Mem         [][]byte // set by Begin: the memory in order, neighbours joined

	// Held is the Backend's between Begin and End.
	Held any
}
