package state

import (
	"cmp"
	"slices"

	"dmps/raid"
)

// placeInPlace chooses chunk size and servers of a linear or striped volume.
// Its groups are single chunks.
func (s *State) placeInPlace(c *CreateVolume) (slots uint32, groups [][]Member, refusal *Refusal) {
	cands := s.candidates()
	if len(cands) == 0 {
		return 0, nil, s.tooFewDomains(c, cands, 0)
	}
	want := uint64(len(cands)) // one chunk a server
	if c.Kind == raid.LayoutLinear {
		want *= wantRuns
	}
	slots = c.ChunkSlots
	if slots == 0 {
		for slots = chooseSlots(c.Pages, want); tooMany(ceilDiv(c.Pages, uint64(slots)), c.Geometry); {
			slots *= 2
		}
	}
	n := ceilDiv(c.Pages, uint64(slots))
	if refusal := c.checkCount(slots, n); refusal != nil {
		return 0, nil, refusal
	}
	bytes := ChunkBytes(c.Geometry, slots, 0)
	if c.Kind == raid.LayoutStriped {
		groups = striped(cands, int(n), bytes)
	} else {
		groups = linear(cands, int(n), bytes)
	}
	if groups == nil {
		fit := uint64(0)
		for _, sv := range cands {
			fit += sv.free / bytes
		}
		return 0, nil, s.noSpace(c, cands, int(n), int(min(n, fit)), bytes)
	}
	if refusal := c.checkCount(slots, uint64(len(groups))); refusal != nil {
		return 0, nil, refusal
	}
	return slots, groups, nil
}

// linear gives each server a run of chunks, the servers one after another by
// id: the S_i of the paper's equation (1). S_i is the server's share of the
// free memory; what rounding leaves over goes where most is left.
func linear(cands []candidate, n int, bytes uint64) [][]Member {
	var total uint64
	for _, sv := range cands {
		total += sv.free / bytes
	}
	if total < uint64(n) {
		return nil
	}
	run := make([]uint64, len(cands))
	left := uint64(n)
	for i, sv := range cands {
		run[i] = uint64(n) * (sv.free / bytes) / total
		left -= run[i]
	}
	for ; left > 0; left-- {
		best := 0
		for i, sv := range cands {
			if sv.free/bytes-run[i] > cands[best].free/bytes-run[best] {
				best = i
			}
		}
		run[best]++
	}
	groups := make([][]Member, 0, n)
	for i, sv := range cands {
		for range run[i] {
			groups = append(groups, []Member{{Server: sv.ID}})
		}
	}
	return groups
}

// striped deals the same number of chunks to each of as many servers as can
// take them, in turn.
func striped(cands []candidate, n int, bytes uint64) [][]Member {
	cands = slices.Clone(cands)
	slices.SortStableFunc(cands, func(a, b candidate) int { return cmp.Compare(b.free, a.free) })
	for w := min(len(cands), n); w > 0; w-- {
		each := ceilDiv(uint64(n), uint64(w))
		if cands[w-1].free/bytes < each {
			continue
		}
		use := slices.Clone(cands[:w])
		slices.SortFunc(use, func(a, b candidate) int { return cmp.Compare(a.ID, b.ID) })
		groups := make([][]Member, 0, int(each)*w)
		for range each {
			for _, sv := range use {
				groups = append(groups, []Member{{Server: sv.ID}})
			}
		}
		return groups
	}
	return nil
}
