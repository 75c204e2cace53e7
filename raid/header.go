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
	// KindEmpty is a slot that was never written: all bytes zero.
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
)

// Header is the head of a slot. It travels with the page and lies beside it
// in the server's memory; it is what makes the page map soft state.
//
// Layout, little endian:
//
//	 0  u8   kind
//	 1  u8   fill value (KindFill)
//	 2  u16  filled: which data columns of the row hold anything
//	 4  u32  members: which members of the group the row was sent to
//	 8  u64  page (KindNotes: undefined, zero)
//	16  u64  seq
//	24  u32  epoch, low 32 bits
//	28  u32  crc32c of the 4096 bytes of the slot (0 for KindFill)
//	32  u32  reserved, zero
//	36  u32  crc32c of bytes 0..36 and of the row table
//	40       row table (KindParity only): K entries of 16 bytes:
//	         u64 page, u32 crc32c of that column's page, u8 kind, 3 x zero;
//	         the kind is not KindEmpty if and only if filled has the column
type Header struct {
	Kind    HeaderKind
	Fill    byte
	Filled  uint16
	Members uint32
	Page    PageNo
	Seq     Seq
	Epoch   uint32
	CRC     uint32
}

// RowEntry is one data column in the table that parity slots carry.
type RowEntry struct {
	Page PageNo
	CRC  uint32
	Kind HeaderKind // KindEmpty: the column is not filled and counts as zeros
}

const (
	// HeaderSize is the size of a header without row table, in bytes.
	HeaderSize = 40
	// RowEntrySize is the size of one entry of the row table, in bytes.
	RowEntrySize = 16
	// MaxHeaderSize bounds every header, in bytes.
	MaxHeaderSize = HeaderSize + MaxData*RowEntrySize
)

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

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the checksum of a page: CRC-32C (RFC 3720, appendix B.4).
func Checksum(page []byte) uint32 { return crc32.Checksum(page, castagnoli) }

// Put encodes h and table into dst, which must have the exact size. It does
// not keep either.
func (h *Header) Put(dst []byte, table []RowEntry) {
	if len(dst) != HeaderSize+len(table)*RowEntrySize {
		panic(fmt.Sprintf("raid: header buffer of %d bytes for %d entries", len(dst), len(table)))
	}
	le := binary.LittleEndian
	dst[0], dst[1] = byte(h.Kind), h.Fill
	le.PutUint16(dst[2:], h.Filled)
	le.PutUint32(dst[4:], h.Members)
	le.PutUint64(dst[8:], uint64(h.Page))
	le.PutUint64(dst[16:], uint64(h.Seq))
	le.PutUint32(dst[24:], h.Epoch)
	le.PutUint32(dst[28:], h.CRC)
	le.PutUint32(dst[32:], 0)
	for i, e := range table {
		b := dst[HeaderSize+i*RowEntrySize:][:RowEntrySize]
		le.PutUint64(b, uint64(e.Page))
		le.PutUint32(b[8:], e.CRC)
		le.PutUint32(b[12:], uint32(e.Kind))
	}
	le.PutUint32(dst[36:], headerCRC(dst))
}

func headerCRC(b []byte) uint32 {
	c := crc32.Update(0, castagnoli, b[:36])
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
	le := binary.LittleEndian
	h := Header{
		Kind:    HeaderKind(src[0]),
		Fill:    src[1],
		Filled:  le.Uint16(src[2:]),
		Members: le.Uint32(src[4:]),
		Page:    PageNo(le.Uint64(src[8:])),
		Seq:     Seq(le.Uint64(src[16:])),
		Epoch:   le.Uint32(src[24:]),
		CRC:     le.Uint32(src[28:]),
	}
	if h.Kind == KindEmpty {
		for _, b := range src {
			if b != 0 {
				return Header{}, fmt.Errorf("%w: empty, but not zero", ErrBadHeader)
			}
		}
		return h, nil
	}
	if h.Kind > KindParity {
		return Header{}, fmt.Errorf("%w: kind %d", ErrBadHeader, h.Kind)
	}
	if h.Kind != KindParity && len(src) != HeaderSize {
		return Header{}, fmt.Errorf("%w: kind %d with a row table", ErrBadHeader, h.Kind)
	}
	if h.Kind == KindParity && len(src) == HeaderSize {
		return Header{}, fmt.Errorf("%w: parity without a row table", ErrBadHeader)
	}
	if le.Uint32(src[36:]) != headerCRC(src) {
		return Header{}, fmt.Errorf("%w: checksum", ErrBadHeader)
	}
	// Sound, but is it ours? Another version may use what is zero here.
	if le.Uint32(src[32:]) != 0 {
		return Header{}, fmt.Errorf("%w: reserved bytes are not zero", ErrBadHeader)
	}
	for i := range RowTable(src) {
		kind := le.Uint32(src[HeaderSize+i*RowEntrySize+12:])
		if kind != uint32(KindEmpty) && kind != uint32(KindPage) && kind != uint32(KindNotes) {
			return Header{}, fmt.Errorf("%w: kind %#x in the row table", ErrBadHeader, kind)
		}
		if filled := h.Filled&(1<<i) != 0; filled != (kind != uint32(KindEmpty)) {
			return Header{}, fmt.Errorf("%w: column %d filled: %v, but kind %d in the row table", ErrBadHeader, i, filled, kind)
		}
	}
	return h, nil
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
	return RowEntry{Page: PageNo(le.Uint64(src[8:])), CRC: le.Uint32(src[28:]), Kind: HeaderKind(src[0])}
}
