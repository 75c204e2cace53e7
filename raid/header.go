package raid

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// HeaderKind says what a slot holds.
type HeaderKind uint8

const (
	// KindEmpty is all bytes zero: a slot of an in-place layout that was never written.
	// A log's chunks are made of erased slots, so there it is memory that was lost.
	KindEmpty HeaderKind = iota
	// KindPage is a page of the volume.
	KindPage
	// KindFill is a page whose bytes all have the value Fill; the slot's
	// memory does not count. Only in-place layouts have it.
	KindFill
	// KindNotes is a page of notes (package raid, Notes): the same-filled and
	// trimmed pages, which have no slot of their own.
	KindNotes
	// KindParity is a parity slot of a row with K > 1; the header carries the
	// row's table. (With K = 1 parity is a copy, header and all.)
	KindParity
	// KindView is a slot without a page in one of the two view rows of a group:
	// it says which members belong to it (log_view.go). Its table is zero.
	KindView
	// KindErased is a slot that holds nothing. Whatever it held up to Seq is dead: it
	// was erased, or a server has begun to receive a batch above Seq for it. A slot of
	// a row that counts is never written over, so what other members have of rows up to
	// Seq does not count either. Seq 0 says nothing: the chunk was made so, or somebody
	// else has a row in use there. All fields but Seq and Site are zero.
	KindErased
)

// Header is the head of a slot. It travels with the page and lies beside it
// in the server's memory; it is what makes the page map soft state.
//
// Layout of format 3, little endian:
//
//	 0  u8   format: 0xd3, or 0 in a slot that is all zeros
//	 1  u8   kind
//	 2  u8   fill value (KindFill)
//	 3  u8   reserved, zero
//	 4  u16  filled: which data columns of the row hold anything
//	 6  u16  reserved, zero
//	 8  u32  members: which members of the group the row was sent to;
//	         KindView: which belong to it
//	12  u32  volume, low 32 bits of its number
//	16  u64  page (KindPage and KindFill); KindView: up to which seq those that do
//	         not belong to it are believed what they hold; else zero
//	24  u64  seq
//	32  u64  settled: every batch of this group up to this number is settled
//	40  u32  group
//	44  u32  index of the slot in its chunk
//	48  u64  id of the key that the page is encrypted with (0: it is not)
//	56  16B  authentication tag of the page (zero)
//	72  u64  authentication tag of the header (zero)
//	80  u32  crc32c of the 4096 bytes of the slot (0 for KindFill and KindErased;
//	         KindView: mask of members that have every row up to settled)
//	84  u32  crc32c of bytes 0..84 and of the row table
//	88       row table (parity columns with K > 1): K entries of 40 bytes:
//	         u64 page, u32 crc32c of that column's page, u8 kind, 3 x zero,
//	         16 bytes tag of the page, u64 tag of that column's header;
//	         the kind is not KindEmpty if and only if filled has the column
//
// Keys and tags have their places for encryption by the client. Until that
// exists they are zero, and a header in which they are not is refused.
//
// Formats 1 and 2 were in no release. In format 2 an erased slot said nothing, and a
// chunk was made of zeros.
type Header struct {
	Kind    HeaderKind
	Fill    byte
	Filled  uint16
	Members uint32
	Page    PageNo
	Seq     Seq
	Settled Seq // see window
	CRC     uint32
	Site
}

// Site is where a slot lies. A header names its own, so that what a server
// stored or read at another place shows.
type Site struct {
	Volume uint32 // low 32 bits of the VolumeID
	Group  GroupID
	Index  Index
}

// RowEntry is one data column in the table that parity slots carry.
type RowEntry struct {
	Page PageNo
	CRC  uint32
	Kind HeaderKind // KindEmpty: the column is not filled and counts as zeros
}

const (
	// HeaderSize is the size of a header without row table, in bytes.
	HeaderSize = 88
	// RowEntrySize is the size of one entry of the row table, in bytes.
	RowEntrySize = 40
	// MaxHeaderSize bounds every header, in bytes.
	MaxHeaderSize = HeaderSize + MaxData*RowEntrySize

	headerFormat = 0xd3
	headerSum    = HeaderSize - 4 // where the checksum of the header lies
)

// ChunkBytes is the memory that a chunk takes of its server, in bytes: slots pages and
// as many headers of headerBytes, in whole pages. The metadata counts by it and servers
// lend by it.
func ChunkBytes(slots uint32, headerBytes int) uint64 {
	n := uint64(slots) * uint64(PageSize+headerBytes)
	return (n + PageSize - 1) / PageSize * PageSize
}

// HeaderBytes is the size of the headers of column c, in bytes.
func HeaderBytes(g Geometry, c Col) int {
	if g.K > 1 && int(c) >= g.K {
		return HeaderSize + g.K*RowEntrySize
	}
	return HeaderSize
}

// ErrBadHeader is a header that was damaged or never written as one: the slot
// cannot be used, read its row from other members.
var ErrBadHeader = errors.New("bad slot header")

// ErrHeaderFormat is a header that another version of dmps wrote. It is an
// ErrBadHeader too.
var ErrHeaderFormat = fmt.Errorf("%w: written by another version of dmps, which this one cannot read", ErrBadHeader)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the checksum of a page: CRC-32C (RFC 3720, appendix B.4).
func Checksum(page []byte) uint32 { return crc32.Checksum(page, castagnoli) }

// Holds reports whether the header is of a slot that holds something: a page, a
// parity, or a fill.
func (h *Header) Holds() bool { return h.Kind >= KindPage && h.Kind <= KindParity }

// PutErased encodes into dst, which has the exact size, the header of an erased slot:
// what it held up to seq is dead.
func PutErased(dst []byte, at Site, seq Seq) {
	(&Header{Kind: KindErased, Seq: seq, Site: at}).Put(dst, noTable[:RowTable(dst)])
}

// PutErasedFor is PutErased for a slot that is about to receive what the header in
// head says: what it held before that is dead. head is not verified, but must have the
// size of dst.
func PutErasedFor(dst, head []byte) {
	h := fields(head)
	PutErased(dst, h.Site, max(h.Seq, 1)-1)
}

var noTable [MaxData]RowEntry

// SameRow reports whether two headers say the same of their row: they belong to
// one batch and lie in the same place. What is of each column may differ.
func (h *Header) SameRow(o *Header) bool {
	return h.Seq == o.Seq && h.Settled == o.Settled && h.Members == o.Members && h.Filled == o.Filled && h.Site == o.Site
}

// Put encodes h and table into dst, which must have the exact size. It does
// not keep either.
func (h *Header) Put(dst []byte, table []RowEntry) {
	if len(dst) != HeaderSize+len(table)*RowEntrySize {
		panic(fmt.Sprintf("raid: header buffer of %d bytes for %d entries", len(dst), len(table)))
	}
	le := binary.LittleEndian
	clear(dst)
	dst[0], dst[1], dst[2] = headerFormat, byte(h.Kind), h.Fill
	le.PutUint16(dst[4:], h.Filled)
	le.PutUint32(dst[8:], h.Members)
	le.PutUint32(dst[12:], h.Volume)
	le.PutUint64(dst[16:], uint64(h.Page))
	le.PutUint64(dst[24:], uint64(h.Seq))
	le.PutUint64(dst[32:], uint64(h.Settled))
	le.PutUint32(dst[40:], uint32(h.Group))
	le.PutUint32(dst[44:], uint32(h.Index))
	le.PutUint32(dst[80:], h.CRC)
	for i, e := range table {
		b := dst[HeaderSize+i*RowEntrySize:][:RowEntrySize]
		le.PutUint64(b, uint64(e.Page))
		le.PutUint32(b[8:], e.CRC)
		le.PutUint32(b[12:], uint32(e.Kind))
	}
	le.PutUint32(dst[headerSum:], headerCRC(dst))
}

func headerCRC(b []byte) uint32 {
	c := crc32.Update(0, castagnoli, b[:headerSum])
	if len(b) > HeaderSize {
		c = crc32.Update(c, castagnoli, b[HeaderSize:])
	}
	return c
}

// ParseHeader decodes and verifies the header in src, whose length is the
// chunk's header size. A slot that was never written gives KindEmpty.
func ParseHeader(src []byte) (Header, error) {
	if len(src) < HeaderSize || (len(src)-HeaderSize)%RowEntrySize != 0 || len(src) > MaxHeaderSize {
		return Header{}, fmt.Errorf("%w: %d bytes", ErrBadHeader, len(src))
	}
	if src[0] == 0 {
		for _, b := range src {
			if b != 0 {
				return Header{}, fmt.Errorf("%w: empty, but not zero", ErrBadHeader)
			}
		}
		return Header{}, nil
	}
	le := binary.LittleEndian
	h := fields(src)
	if le.Uint32(src[headerSum:]) != headerCRC(src) {
		return Header{}, fmt.Errorf("%w: checksum", ErrBadHeader)
	}
	// Sound, but is it ours? Another version may use what is zero here.
	if src[0] != headerFormat || src[3] != 0 || src[6] != 0 || src[7] != 0 || !zero(src[48:80]) {
		return Header{}, ErrHeaderFormat
	}
	if h.Kind == KindEmpty || h.Kind > KindErased {
		return Header{}, fmt.Errorf("%w: kind %d", ErrBadHeader, h.Kind)
	}
	if h.Kind >= KindView {
		if !zero(src[HeaderSize:]) {
			return Header{}, fmt.Errorf("%w: kind %d with a row table", ErrBadHeader, h.Kind)
		}
		if h.Kind == KindErased && h != (Header{Kind: KindErased, Seq: h.Seq, Site: h.Site}) {
			return Header{}, fmt.Errorf("%w: erased, but says more than up to where", ErrBadHeader)
		}
		return h, nil
	}
	if h.Kind != KindParity && len(src) != HeaderSize {
		return Header{}, fmt.Errorf("%w: kind %d with a row table", ErrBadHeader, h.Kind)
	}
	if h.Kind == KindParity && len(src) == HeaderSize {
		return Header{}, fmt.Errorf("%w: parity without a row table", ErrBadHeader)
	}
	for i := range RowTable(src) {
		e := src[HeaderSize+i*RowEntrySize:][:RowEntrySize]
		kind := le.Uint32(e[12:])
		if !zero(e[16:]) {
			return Header{}, ErrHeaderFormat
		}
		if kind != uint32(KindEmpty) && kind != uint32(KindPage) && kind != uint32(KindNotes) {
			return Header{}, fmt.Errorf("%w: kind %#x in the row table", ErrBadHeader, kind)
		}
		if filled := h.Filled&(1<<i) != 0; filled != (kind != uint32(KindEmpty)) {
			return Header{}, fmt.Errorf("%w: column %d filled: %v, but kind %d in the row table", ErrBadHeader, i, filled, kind)
		}
	}
	return h, nil
}

// fields decodes the fields of the header in src, and verifies nothing.
func fields(src []byte) Header {
	le := binary.LittleEndian
	return Header{
		Kind:    HeaderKind(src[1]),
		Fill:    src[2],
		Filled:  le.Uint16(src[4:]),
		Members: le.Uint32(src[8:]),
		Page:    PageNo(le.Uint64(src[16:])),
		Seq:     Seq(le.Uint64(src[24:])),
		Settled: Seq(le.Uint64(src[32:])),
		CRC:     le.Uint32(src[80:]),
		Site:    Site{Volume: le.Uint32(src[12:]), Group: GroupID(le.Uint32(src[40:])), Index: Index(le.Uint32(src[44:]))},
	}
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// RowTable is the number of entries in an encoded header that ParseHeader
// accepted; ParseRowEntry gives one of them.
func RowTable(src []byte) int { return (len(src) - HeaderSize) / RowEntrySize }

// ParseRowEntry decodes entry i of the row table in src.
func ParseRowEntry(src []byte, i int) RowEntry {
	b := src[HeaderSize+i*RowEntrySize:][:RowEntrySize]
	le := binary.LittleEndian
	return RowEntry{Page: PageNo(le.Uint64(b)), CRC: le.Uint32(b[8:]), Kind: HeaderKind(b[12])}
}

// entryOf is what the table of a row says of a column whose header, of kind
// KindPage or KindNotes, is src.
func entryOf(src []byte) RowEntry {
	le := binary.LittleEndian
	return RowEntry{Page: PageNo(le.Uint64(src[16:])), CRC: le.Uint32(src[80:]), Kind: HeaderKind(src[1])}
}
