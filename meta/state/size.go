package state

import (
	"math/bits"

	"dmps/raid"
)

// Sizes of chunks and volumes.
const (
	maxAutoSlots = 16384   // of a chunk that meta chooses, unless the volume would have tooMany: 64 MiB of pages
	minSlots     = 256     // of any chunk: 1 MiB of pages; smaller ones are not worth their bookkeeping
	maxSlots     = 1 << 20 // of any chunk: 4 GiB of pages
	maxGroups    = 1 << 14 // of a volume: a replica answers nobody while it makes or deletes them (BenchmarkApply in meta/store)
	maxChunks    = 1 << 16 // of all its groups, likewise
	wantGroups   = 16      // of a log, so that placement and cleaning have a choice
	wantRuns     = 4       // chunks a server of a linear volume, so that shares can follow free memory

	minFill, maxFill, defaultFill = 10, 95, 80 // percent; above 95 a log only cleans
)

// ChunkBytes is the memory that a chunk of column c takes of a server: slots
// and headers, in whole pages.
func ChunkBytes(g raid.Geometry, slots uint32, c raid.Col) uint64 {
	return raid.ChunkBytes(slots, raid.HeaderBytes(g, c))
}

// groupBytes is the memory of all chunks of one group.
func groupBytes(g raid.Geometry, slots uint32) uint64 {
	var n uint64
	for c := range g.Members() {
		n += ChunkBytes(g, slots, raid.Col(c))
	}
	return n
}

func ceilDiv(a, b uint64) uint64 { return (a + b - 1) / b }

// chooseSlots is the largest power of two of slots, from minSlots to
// maxAutoSlots, with which data slots make at least want chunks of data.
func chooseSlots(data, want uint64) uint32 {
	perChunk := max(data/max(want, 1), 1)
	slots := uint64(1) << (bits.Len64(perChunk) - 1) // power of two, at most perChunk
	return uint32(min(max(slots, minSlots), maxAutoSlots))
}

// sizeLog gives the chunk size and the number of groups of a log: data slots
// for every page at the target fill, and spare groups beyond them, so that at
// full size rows can be written while the cleaner works. The first rows of a group
// hold its view, and no pages. chunkSlots 0 is chosen here.
func sizeLog(pages uint64, g raid.Geometry, fill int, chunkSlots uint32) (slots uint32, groups uint64) {
	data := ceilDiv(pages*100, uint64(fill))
	k := uint64(g.K)
	slots = chunkSlots
	if slots == 0 {
		slots = chooseSlots(data, wantGroups*k)
	}
	for ; ; slots *= 2 {
		groups = ceilDiv(data, k*uint64(slots-raid.ViewRows))
		groups += spareGroups(groups)
		if chunkSlots != 0 || slots >= maxSlots || !tooMany(groups, g) {
			return slots, groups
		}
	}
}

// tooMany reports whether a volume may not have so many groups.
func tooMany(groups uint64, g raid.Geometry) bool {
	return groups > maxGroups || groups*uint64(g.Members()) > maxChunks
}

// spareGroups is one for the rows being written, and 3 % for the unevenness
// of cleaning.
func spareGroups(groups uint64) uint64 { return 1 + groups/32 }

// validate completes a request with its defaults, or says why it can never be
// granted.
func (c *CreateVolume) validate() *Refusal {
	if !ValidName(c.Name) {
		return refuse(Invalid, "volume name %q: use 1 to 63 of a-z A-Z 0-9 . _ - and begin with a letter or digit", c.Name)
	}
	if err := c.Geometry.Validate(); err != nil {
		return refuse(Invalid, "volume %s: %v", c.Name, err)
	}
	inPlace := c.Kind != raid.LayoutLog
	if c.MinAck == 0 {
		c.MinAck = c.Geometry.K
	}
	if c.TargetFill == 0 {
		c.TargetFill = defaultFill
		if inPlace {
			c.TargetFill = 100
		}
	}
	switch {
	case c.Kind > raid.LayoutStriped:
		return refuse(Invalid, "volume %s: unknown layout %v", c.Name, c.Kind)
	case inPlace && c.Geometry != raid.Geometry{K: 1}:
		return refuse(Invalid, "volume %s: layout %v has no redundancy: use --layout log for %v", c.Name, c.Kind, c.Geometry)
	case c.Pages == 0 || c.Pages > raid.MaxPages:
		return refuse(Invalid, "volume %s: size must be 4 KiB to 8 TiB", c.Name)
	case inPlace && c.TargetFill != 100:
		return refuse(Invalid, "volume %s: layout %v overwrites in place, its target fill is 100", c.Name, c.Kind)
	case !inPlace && (c.TargetFill < minFill || c.TargetFill > maxFill):
		return refuse(Invalid, "volume %s: target fill %d: must be %d to %d percent", c.Name, c.TargetFill, minFill, maxFill)
	case c.MinAck < c.Geometry.K || c.MinAck > c.Geometry.Members():
		return refuse(Invalid, "volume %s: min ack %d: must be %d to %d for %v", c.Name, c.MinAck, c.Geometry.K, c.Geometry.Members(), c.Geometry)
	case c.Domain > LevelZone:
		return refuse(Invalid, "volume %s: unknown failure domain", c.Name)
	case c.ChunkSlots != 0 && (c.ChunkSlots < minSlots || c.ChunkSlots > maxSlots || bits.OnesCount32(c.ChunkSlots) != 1):
		return refuse(Invalid, "volume %s: chunk size must be a power of two from 1 MiB to 4 GiB", c.Name)
	}
	return nil
}

// checkCount refuses what no layout can hold.
func (c *CreateVolume) checkCount(slots uint32, groups uint64) *Refusal {
	switch {
	case tooMany(groups, c.Geometry):
		return refuse(Invalid, "volume %s would have %d groups, at most %d of %d chunks in all: use larger chunks", c.Name, groups, maxGroups, maxChunks)
	case groups*uint64(slots)*uint64(c.Geometry.K) > raid.MaxDataSlots:
		return refuse(Invalid, "volume %s with a target fill of %d %% has more slots than the 8 TiB of a volume", c.Name, c.TargetFill)
	}
	return nil
}

// ValidName reports whether a volume can be called so: the name is safe in
// URLs, file names and NBD exports.
func ValidName(name string) bool {
	if name == "" || len(name) > 63 {
		return false
	}
	for i, r := range []byte(name) {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case i > 0 && (r == '.' || r == '_' || r == '-'):
		default:
			return false
		}
	}
	return true
}
