package raid

// Unproved is a row that counts, although some members say that it was never answered,
// because enough have it, by their headers.
type Unproved struct {
	Group GroupID
	Index Index
	Seq   Seq
	Have  uint32 // who has it

	late int // its place in Recovery.late
}

// Unproved gives the rows of group g whose pages have to be read, when all have been given
// in and before Notes: a page that is damaged may be one too few (Wrong). Then the row was
// never answered, and what it would replace is what counts.
func (r *Recovery) Unproved(g GroupID) (rows []Unproved) {
	r.retry(g)
	for i := range r.late[g] {
		o := &r.late[g][i]
		if o.h.newest.Seq > o.h.erased && r.lacks(&r.l.groups[g], &o.h) != 0 && r.l.CanDecode(o.h.have, o.h.newest.Filled) {
			rows = append(rows, Unproved{Group: g, Index: o.index, Seq: o.h.newest.Seq, Have: o.h.have, late: i})
		}
	}
	return rows
}

// Proves reports whether what was read of a member's slot, header and page, is of row u.
func (r *Recovery) Proves(u *Unproved, header, page []byte) bool {
	h, err := ParseHeader(header)
	return err == nil && h.Seq == u.Seq && h.Site == r.l.Site(u.Group, u.Index) && Checksum(page) == h.CRC
}

// Wrong says that these members do not have row u, although their headers said so.
func (r *Recovery) Wrong(u *Unproved, members uint32) {
	h := &r.late[u.Group][u.late].h
	h.have &^= members
	h.lent &^= members
	h.broken |= members
}

// Unheard says that these members, who should have row u, did not give its page. Until they do,
// it counts, and cannot be spared because of what they might have (SpareUnsure).
func (r *Recovery) Unheard(u *Unproved, members uint32) {
	r.late[u.Group][u.late].h.unheard |= members
}
