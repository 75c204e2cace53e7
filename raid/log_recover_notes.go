package raid

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

type recoveredNote struct {
	slot Slot
	seq  Seq
	have uint32 // who has its row
	dead bool   // unless that can be decoded, it is dead, by all that can be told
}

// Notes gives the slots of the note pages that were found, newest first. Read
// each; hand all of them to Note in any order, then all of them to Bind in the
// order given here.
func (r *Recovery) Notes() []Slot {
	r.judge()
	slices.SortFunc(r.notes, func(a, b recoveredNote) int { return cmp.Compare(b.seq, a.seq) })
	s := make([]Slot, len(r.notes))
	for i := range r.notes {
		s[i] = r.notes[i].slot
	}
	return s
}

// Unreadable says that the content of a note cannot be had, by its place in what Notes
// gave, once: the members in wrong gave something else. The pages that it named may be
// anything, unless it is dead. It is not when the others who have it are enough: they do not
// answer now, and may later.
func (r *Recovery) Unreadable(note int, wrong uint32) {
	n := &r.notes[note]
	filled := r.l.FilledCols(r.l.Place(n.slot).Group, r.l.Place(n.slot).Index)
	if !n.dead || r.l.CanDecode(n.have&^wrong, filled) {
		r.state.Unnamed++
	}
}

// Note takes the content of the note page in slot s: pages that one of its
// records is newer for are forgotten.
func (r *Recovery) Note(s Slot, page []byte) error {
	return r.records(s, page, func(p PageNo, rec NoteRecord) error {
		if r.seqs[p] < rec.Seq {
			r.seqs[p] = rec.Seq
			r.l.point(p, entryAbsent)
		}
		return nil
	})
}

// Bind makes the note page in slot s the owner of those pages that one of its
// records is the newest version of.
func (r *Recovery) Bind(s Slot, page []byte) error {
	l := r.l
	var id NoteID
	bound := false
	err := r.records(s, page, func(p PageNo, rec NoteRecord) error {
		if r.seqs[p] != rec.Seq || l.fwd[p] != entryAbsent {
			return nil
		}
		if !bound {
			n, ok := l.NewNote(true)
			if !ok {
				if n, ok = l.growNotes(); !ok {
					return errors.New("more than 2^23 note pages are in use")
				}
			}
			id, bound = n, true
			l.rev[s] = backNote | back(id)
			l.notes[id].slot = s
			l.enliven(uint32(s) / uint32(l.g.K))
		}
		l.point(p, filledEntry(id, rec.Fill))
		return nil
	})
	if bound {
		l.SealNote(id)
	}
	return err
}

func (r *Recovery) records(s Slot, page []byte, each func(PageNo, NoteRecord) error) error {
	n, err := ParseNotes(page)
	if err != nil {
		return fmt.Errorf("recovering the notes in slot %d: %w", s, err)
	}
	for i := range n.Len() {
		rec := n.At(i)
		r.l.seq = max(r.l.seq, rec.Seq)
		if uint64(rec.Start) >= r.l.pages || uint64(rec.Count) > r.l.pages-uint64(rec.Start) {
			return fmt.Errorf("recovering the notes in slot %d: record %d lies outside of the volume", s, i)
		}
		for p := rec.Start; p < rec.Start+PageNo(rec.Count); p++ {
			if err := each(p, rec); err != nil {
				return fmt.Errorf("recovering the notes in slot %d: %w", s, err)
			}
		}
	}
	return nil
}

// growNotes doubles the note table. Only recovery needs it: it may find dead
// copies beside the living notes.
func (l *Log) growNotes() (NoteID, bool) {
	old := len(l.notes)
	grown := min(2*old, maxNotes)
	if grown == old {
		return 0, false
	}
	l.notes = append(l.notes, make([]noteState, grown-old)...)
	for i := grown - 1; i >= old; i-- {
		l.notes[i].next = l.noteFree
		l.noteFree = NoteID(i) + 1
	}
	return l.NewNote(true)
}
