package raid

// entry is one word of the page map: where the newest answered write of a
// page is.
//
//	0                     absent: never written, reads as zeros
//	1 .. 2^31-1           stored in slot entry-1
//	1<<31 | note<<8 | v   same-filled with byte v, as recorded by a note
type entry uint32

const (
	entryAbsent entry = 0
	entryFilled entry = 1 << 31

	// maxNotes is what 23 bits number.
	maxNotes = 1 << 23
)

func storedEntry(s Slot) entry           { return entry(s) + 1 }
func filledEntry(n NoteID, v byte) entry { return entryFilled | entry(n)<<8 | entry(v) }

func (e entry) stored() bool { return e != entryAbsent && e&entryFilled == 0 }
func (e entry) filled() bool { return e&entryFilled != 0 }
func (e entry) slot() Slot   { return Slot(e - 1) }
func (e entry) note() NoteID { return NoteID(e &^ entryFilled >> 8) }
func (e entry) value() byte  { return byte(e) }

// back is one word of the reverse map: what was written to a data slot. It is
// live if and only if the page map (or the note table) still points there.
//
//	0 .. 2^31-2           the page
//	1<<31 | note          a note page
//	2^32-1                nothing: the column was not filled in this row
type back uint32

const (
	backNote     back = 1 << 31
	backDead          = backNote // filled, and dead from the beginning: no note lies in two slots
	backUnfilled back = 1<<32 - 1
)

func (b back) isNote() bool { return b != backUnfilled && b&backNote != 0 }
func (b back) note() NoteID { return NoteID(b &^ backNote) }

// NoteID numbers the note pages in use. It is local to one life of the map.
type NoteID uint32
