package raid

// prove reads the pages of rows that some say were never answered. Members may have fallen
// silent since their headers were read: they are compared before they are used.
func (w *smallWorld) prove(r *Recovery, reached uint32) (silent uint32) {
	for g := range GroupID(w.x.cfg.Groups) {
		for _, u := range r.Unproved(g) {
			hushed := uint32(0)
			if w.walks("p") && w.pick.of(2) == 1 {
				hushed = uint32(w.pick.of(1<<w.width())) & u.Have
			}
			wrong := uint32(0)
			for c := range w.width() {
				if u.Have&^hushed&w.of(g, reached)&(1<<c) != 0 && w.at(g, c).slots[u.Index].now.bad {
					wrong |= 1 << c
				}
			}
			r.Wrong(&u, wrong)
			r.Unheard(&u, hushed)
			silent |= hushed << (int(g) * w.width())
		}
	}
	w.hushed = silent
	return silent
}

// recoverNotes reads the notes. Members may have fallen silent since their headers were
// read, and answer when the notes are read for the second time.
func (w *smallWorld) recoverNotes(r *Recovery, reached uint32) {
	slots := r.Notes()
	unread := make(map[int]uint32)
	hushed, when := uint32(0), 0
	if len(slots) > 0 && w.walks("q") && w.pick.of(2) == 1 {
		hushed = uint32(w.pick.of(1<<len(w.m))) & reached
		if w.walks("p") {
			when = w.pick.of(3) // the first time, the second, or both
		}
	}
	w.hushed |= hushed
	for pass, step := range []func(Slot, []byte) error{r.Note, r.Bind} {
		for i, s := range slots {
			at := w.cur.log.Place(s)
			have, cell := w.have(w.cur.log, at.Group, at.Index)
			wrong := w.of(at.Group, reached) &^ have
			if pass == when || when == 2 {
				wrong &^= w.of(at.Group, hushed)
				have &^= w.of(at.Group, hushed)
			}
			if have&(1<<at.Col) == 0 && !w.cur.log.CanDecode(have, w.cur.log.FilledCols(at.Group, at.Index)) {
				unread[i] |= wrong
			} else if err := step(s, cell.note); err != nil {
				panic(err)
			}
		}
	}
	for i, wrong := range unread {
		r.Unreadable(i, wrong)
	}
}
