package raid

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// NoteRecord says that a run of pages has no slot of its own: every byte of
// pages Start to Start+Count-1 has the value Fill. A trimmed page is a page
// filled with zeros.
type NoteRecord struct {
	Start PageNo
	Count uint32 // pages; at least 1
	Fill  byte
	Seq   Seq // of the write or trim; newer slots and notes of the same page win
}

// Notes is a note page: one page (PageSize bytes) of records, stored in a data
// slot of kind KindNotes, so that fills and trims are as redundant as what they
// replace. Notes is a view: it keeps the page and owns nothing.
//
// Layout, little endian:
//
//	 0  u32  magic "DMPN"
//	 4  u16  version, 1
//	 6  u16  number of records, 0..MaxNotes
//	 8  u64  reserved, zero
//	16       records of 24 bytes:
//	         u64 start page
//	         u64 seq
//	         u32 count
//	         u8  fill
//	         3 x zero
//	         ... zero to the end of the page
//
// There is no checksum in the page: the slot's header has one.
type Notes struct{ page []byte }

const (
	notesMagic   = 0x4e504d44 // "DMPN", little endian
	notesVersion = 1
	notesHead    = 16
	// NoteSize is the size of one record, in bytes.
	NoteSize = 24
	// MaxNotes is how many records fit a note page.
	MaxNotes = (PageSize - notesHead) / NoteSize
)

// ErrBadNotes is a page that is no note page, although its checksum said that
// it is what was written: a bug or another version wrote it. What it recorded
// is unknown, so do not go on without it.
var ErrBadNotes = errors.New("bad note page")

// NewNotes makes page an empty note page: all PageSize bytes of it are
// overwritten. Another length panics.
func NewNotes(page []byte) Notes {
	if len(page) != PageSize {
		panic(fmt.Sprintf("raid: note page of %d bytes", len(page)))
	}
	clear(page)
	le := binary.LittleEndian
	le.PutUint32(page, notesMagic)
	le.PutUint16(page[4:], notesVersion)
	return Notes{page}
}

// ParseNotes checks the whole of page, so that Len and At cannot fail after it.
// Every error is ErrBadNotes.
func ParseNotes(page []byte) (Notes, error) {
	bad := func(format string, a ...any) (Notes, error) {
		return Notes{}, fmt.Errorf("%w: %s", ErrBadNotes, fmt.Sprintf(format, a...))
	}
	if len(page) != PageSize {
		return bad("%d bytes", len(page))
	}
	le := binary.LittleEndian
	if m := le.Uint32(page); m != notesMagic {
		return bad("magic %#x", m)
	}
	if v := le.Uint16(page[4:]); v != notesVersion {
		return bad("version %d, this program knows %d", v, notesVersion)
	}
	n := Notes{page}
	if n.Len() > MaxNotes {
		return bad("%d records", n.Len())
	}
	if le.Uint64(page[8:]) != 0 || !isZero(page[notesHead+n.Len()*NoteSize:]) {
		return bad("reserved bytes are not zero")
	}
	for i := range n.Len() {
		b := n.record(i)
		if b[21]|b[22]|b[23] != 0 {
			return bad("record %d: reserved bytes are not zero", i)
		}
		if r := n.At(i); !r.valid() {
			return bad("record %d: %d pages from %d", i, r.Count, r.Start)
		}
	}
	return n, nil
}

// valid reports whether the run is not empty and ends inside the largest
// volume. Written so that nothing overflows.
func (r NoteRecord) valid() bool {
	return r.Count > 0 && r.Start < MaxPages && PageNo(r.Count) <= MaxPages-r.Start
}

// Len is the number of records.
func (n Notes) Len() int { return int(binary.LittleEndian.Uint16(n.page[6:])) }

// At is record i, 0 <= i < Len.
func (n Notes) At(i int) NoteRecord {
	if i >= n.Len() {
		panic(fmt.Sprintf("raid: note %d of %d", i, n.Len()))
	}
	b := n.record(i)
	le := binary.LittleEndian
	return NoteRecord{
		Start: PageNo(le.Uint64(b)),
		Seq:   Seq(le.Uint64(b[8:])),
		Count: le.Uint32(b[16:]),
		Fill:  b[20],
	}
}

// Append adds r and reports whether there was room; without room the page is
// unchanged. An empty run, or one past MaxPages, panics: it could not be read
// back.
func (n Notes) Append(r NoteRecord) bool {
	if !r.valid() {
		panic(fmt.Sprintf("raid: note of %d pages from %d", r.Count, r.Start))
	}
	i := n.Len()
	if i == MaxNotes {
		return false
	}
	b := n.record(i)
	le := binary.LittleEndian
	le.PutUint64(b, uint64(r.Start))
	le.PutUint64(b[8:], uint64(r.Seq))
	le.PutUint32(b[16:], r.Count)
	b[20] = r.Fill
	le.PutUint16(n.page[6:], uint16(i+1))
	return true
}

func (n Notes) record(i int) []byte {
	return n.page[notesHead+i*NoteSize:][:NoteSize:NoteSize]
}

func isZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
