package raid

import "sort"

// Linear is the paper's equation (1): servers one after another,
//
//	s_v = s_r + sum of S_i for i < n
//
// with s_v the page of the volume, s_r the index in chunk n, and S_i the slots
// of chunk i, which may differ. (Imai, Matsuba, Ishikawa: Large Virtual Memory
// Space using Distributed Paging.)
//
// Neighbouring pages lie on one server, so that a transfer is never cut but at
// the end of a chunk; the servers are busy one at a time.
type Linear struct {
	pages uint64
	first []uint64 // first[n] is the sum of S_i for i < n; one more than there are chunks
}

// NewLinear lays pages over chunks of the given sizes in slots, in their order. An empty
// chunk is allowed and holds nothing. It does not keep sizes.
func NewLinear(pages uint64, sizes []uint32) (*Linear, error) {
	l := &Linear{pages: pages, first: make([]uint64, len(sizes)+1)}
	for i, s := range sizes {
		l.first[i+1] = l.first[i] + uint64(s)
	}
	if l.first[len(sizes)] < pages {
		return nil, errTooSmall
	}
	return l, nil
}

// Locate implements InPlace.
func (l *Linear) Locate(p PageNo) (GroupID, Index) {
	if uint64(p) >= l.pages {
		panic(noSuchPage(p, l.pages))
	}
	// The last chunk that does not begin after p. Chunk 0 begins at 0, and the
	// chunk after the last one begins after p.
	n := sort.Search(len(l.first), func(i int) bool { return l.first[i] > uint64(p) }) - 1
	return GroupID(n), Index(uint64(p) - l.first[n])
}

// Page implements InPlace.
func (l *Linear) Page(g GroupID, i Index) (PageNo, bool) {
	n := uint64(g)
	if n >= uint64(len(l.first)-1) || uint64(i) >= l.first[n+1]-l.first[n] {
		return 0, false
	}
	p := l.first[n] + uint64(i)
	return PageNo(p), p < l.pages
}
