package transport

import (
	"errors"
	"fmt"
)

// Limits of a rebuild request. They bound its frame to 22 KiB.
const (
	// MaxRebuildRows is the most rows of one request: 4 MiB of slots.
	MaxRebuildRows = 1024
	// MaxRebuildMembers is the most members of a row, the target included: a
	// filled mask has 16 bits, and four more members are parity.
	MaxRebuildMembers = 20
	// MaxRebuildAddr bounds the address of a source, in bytes.
	MaxRebuildAddr = 255
	// RebuildsInFlight is the number of rebuild requests that a session may
	// have in flight, beside its window.
	RebuildsInFlight = 4
)

// RebuildSpec asks a server to fill slots of one of its own chunks with what
// the other members of their rows give, or to verify that they hold that. The
// client's link carries these lists and no page.
type RebuildSpec struct {
	Chunk uint64 // the target, opened by OpenChunk on this session; not InPlace
	K, M  int    // the geometry of the rows
	Col   uint8  // the target's column

	// Verify makes the server compare what the slots hold with what they
	// should hold; nothing is stored, and a row that does not fail is right.
	// Each slot is judged by itself: a sound header, of this row and of the
	// column's kind, and a page that matches it. With Sources also by its row:
	// a mirror's header is compared with another copy's, and a parity slot,
	// header and page, with what the others of its row give, data before
	// parity. (Data columns of K > 1 are always judged by themselves.)
	Verify bool

	// Sources are the members to read from, the one to prefer first, each of
	// another column. List all that survive: when one fails, another takes its
	// place. One of the target's own column is another chunk that holds the
	// same slots: it is preferred to all others, and copied. To fill there is
	// at least one; to verify there may be none, and none of the target's
	// column.
	Sources []RebuildSource
	// Rows are the rows to fill, 1 to MaxRebuildRows. They must be in use, and
	// their slots not be written, until Rebuild returns a result; after an
	// error, until a new session was accepted by the server. (A slot that
	// holds a higher sequence is not overwritten all the same.) Neighbouring
	// indexes in order transfer best.
	Rows []RebuildRow

	// RateBytes bounds what the server reads for this request, from sources
	// and to verify, headers included, in bytes a second. 0: only the server's
	// own limit counts.
	RateBytes int64
}

// RebuildSource is a member of the group that may be read.
type RebuildSource struct {
	Addr        string // as Dialer.Dial takes it, 1 to MaxRebuildAddr bytes
	Incarnation uint64 // of the server that holds the chunk; 0 accepts any
	Chunk       uint64
	Col         uint8
}

// RebuildRow is a row whose slot in the target's column is to be filled, or
// verified.
type RebuildRow struct {
	Index  uint32 // slot, in every chunk of the group
	Tag    uint32 // raid.TagOf the sequence of the row, which every header must have
	Filled uint16 // data columns that hold anything: as in the row's headers
	Have   uint32 // columns of Sources that hold this row
}

// RebuildResult is what became of the rows.
type RebuildResult struct {
	Failed  []RebuildFailure // rows that were not stored, or not found right, by Row ascending. All others were
	Pulled  uint64           // bytes read from the sources, headers included
	Checked uint64           // bytes of the target that were verified, headers included
}

// RebuildFailure is a row that was not stored, or is not known to be right.
// Its slot is as it was.
type RebuildFailure struct {
	Row    int // in RebuildSpec.Rows
	Reason RebuildReason
	// Col is the column that Reason is about: that of the last source which
	// had to be given up, or the target's, when its own slot is wrong (to fill:
	// holds a newer row) and with RebuildTooFew. A slot that was to be verified
	// and failed for another column is right by itself; a source is wrong, or
	// could not be had and so the row not be compared.
	Col uint8
}

// RebuildReason is why a row failed.
type RebuildReason uint8

// Reasons. Their numbers are part of the protocol and never change.
const (
	// RebuildTooFew: Have names too few columns to begin with, or, to verify,
	// too few to tell which one is wrong.
	RebuildTooFew RebuildReason = iota + 1
	// RebuildUnreachable: no session with the source, or it ended: try again
	// when that server is back.
	RebuildUnreachable
	// RebuildHeader: the header is damaged, or of another row: the row was
	// written anew, or that member misses it. Or the slot to fill holds a
	// newer row.
	RebuildHeader
	// RebuildChecksum: a page does not match its checksum: scrub the row.
	RebuildChecksum
	// RebuildStaleEpoch: the source has seen a newer lease: stop.
	RebuildStaleEpoch
	// RebuildRefused: the source does not have the chunk or the slot, or
	// refused for a reason of its own.
	RebuildRefused
	// RebuildMismatch: the slot is sound by itself, but is not what the others
	// of its row make it. Only to verify.
	RebuildMismatch
	rebuildReasonEnd
)

var rebuildReasons = [rebuildReasonEnd]string{
	0:                  "none",
	RebuildTooFew:      "too few members",
	RebuildUnreachable: "source unreachable",
	RebuildHeader:      "bad or mismatching header",
	RebuildChecksum:    "checksum",
	RebuildStaleEpoch:  "stale epoch",
	RebuildRefused:     "refused by the source",
	RebuildMismatch:    "not what its row makes it",
}

func (r RebuildReason) String() string {
	if r < rebuildReasonEnd {
		return rebuildReasons[r]
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}

// Valid reports whether r is a reason of this version.
func (r RebuildReason) Valid() bool { return r > 0 && r < rebuildReasonEnd }

// ErrBadRebuild is a RebuildSpec that no server can serve: a fault of the
// caller.
var ErrBadRebuild = errors.New("transport: malformed rebuild")

// Validate reports the first thing that is wrong with s, as ErrBadRebuild.
func (s *RebuildSpec) Validate() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: %w", ErrBadRebuild, fmt.Errorf(format, a...))
	}
	members := s.K + s.M
	least := 1 // of sources, and of parity to make something from
	if s.Verify {
		least = 0
	}
	switch {
	case s.K < 1 || s.K > 16 || s.M < least || members > MaxRebuildMembers:
		return bad("rows of %d+%d members", s.K, s.M)
	case int(s.Col) >= members:
		return bad("column %d of %d", s.Col, members)
	case len(s.Sources) < least || len(s.Sources) > members:
		return bad("%d sources for rows of %d members", len(s.Sources), members)
	case len(s.Rows) < 1 || len(s.Rows) > MaxRebuildRows:
		return bad("%d rows, at most %d", len(s.Rows), MaxRebuildRows)
	case s.RateBytes < 0:
		return bad("rate of %d bytes a second", s.RateBytes)
	}
	var cols uint32
	for i := range s.Sources {
		o := &s.Sources[i]
		if int(o.Col) >= members || cols>>o.Col&1 != 0 {
			return bad("source %d is of column %d, as another source, or there is none", i, o.Col)
		}
		if s.Verify && o.Col == s.Col {
			return bad("source %d is of column %d, which is to be verified", i, o.Col)
		}
		if len(o.Addr) < 1 || len(o.Addr) > MaxRebuildAddr {
			return bad("source %d has an address of %d bytes", i, len(o.Addr))
		}
		cols |= 1 << o.Col
	}
	for i := range s.Rows {
		r := &s.Rows[i]
		if r.Have&^cols != 0 {
			return bad("row %d is held by columns %#x, but the sources are %#x", i, r.Have, cols)
		}
		if r.Filled == 0 || uint32(r.Filled)>>s.K != 0 {
			return bad("row %d has filled columns %#x of %d", i, r.Filled, s.K)
		}
		if int(s.Col) < s.K && r.Filled>>s.Col&1 == 0 {
			return bad("row %d has nothing in column %d", i, s.Col)
		}
	}
	return nil
}
