package raid

// Striped deals pages to all chunks in turn: page p is in chunk p mod N, at
// index p / N. All servers work at once on one large request; pages p and
// p + N are neighbours on one server, so that a long request is still one
// contiguous transfer a server.
type Striped struct {
	pages, chunks uint64
}

// NewStriped lays pages over chunks of equal size.
func NewStriped(pages uint64, chunks int, slots uint32) (*Striped, error) {
	if uint64(max(chunks, 0))*uint64(slots) < pages {
		return nil, errTooSmall
	}
	return &Striped{pages: pages, chunks: uint64(chunks)}, nil
}

// Locate implements InPlace.
func (s *Striped) Locate(p PageNo) (GroupID, Index) {
	if uint64(p) >= s.pages {
		panic(noSuchPage(p, s.pages))
	}
	return GroupID(uint64(p) % s.chunks), Index(uint64(p) / s.chunks)
}

// Page implements InPlace.
func (s *Striped) Page(g GroupID, i Index) (PageNo, bool) {
	if uint64(g) >= s.chunks {
		return 0, false
	}
	p := uint64(i)*s.chunks + uint64(g)
	return PageNo(p), p < s.pages
}
