package server

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// chunk is a run of slots that is lent to one volume.
type chunk struct {
	id     raid.ChunkID
	volume raid.VolumeID
	spec   transport.ChunkSpec
	ext    extent
	made   time.Time
	pages  []byte // spec.Slots * PageSize
	heads  []byte // spec.Slots * spec.HeaderBytes

	// mu orders headers: a reader copies whole ones. Pages have no lock:
	// whoever reads one while it is written fails its checksum.
	mu sync.RWMutex

	// pins are the sessions that have opened the chunk or reach it by one-sided
	// reads, and the reads and rebuilds that refer to its memory. At 0 the extent may be given back,
	// which makes it negative for good.
	pins atomic.Int32

	readers map[*session]struct{} // that it is exposed to, each with a pin; under Server.mu
}

// dropped is far below what pins can make good.
const dropped = -1 << 30

// pin keeps the memory from being given back, until unpin. It reports false
// when that has happened already.
func (c *chunk) pin() bool {
	if c.pins.Add(1) > 0 {
		return true
	}
	c.pins.Add(-1)
	return false
}

func (c *chunk) unpin() { c.pins.Add(-1) }

// chunkSize is the memory of a chunk in bytes.
func chunkSize(s transport.ChunkSpec) int64 {
	return int64(raid.ChunkBytes(s.Slots, int(s.HeaderBytes)))
}

// newChunk makes a chunk of the memory of x, which is mem.
func newChunk(id raid.ChunkID, volume raid.VolumeID, s transport.ChunkSpec, x extent, mem []byte) *chunk {
	p := int64(s.Slots) * raid.PageSize
	s.MustExist = false
	c := &chunk{
		id: id, volume: volume, spec: s, ext: x, made: time.Now(),
		pages: mem[:p:p], heads: mem[p : p+int64(s.Slots)*int64(s.HeaderBytes)],
	}
	if !s.InPlace {
		// So that zeros are memory that was lost, not a slot that was never written.
		for i := range s.Slots {
			raid.PutErased(c.head(i), c.site(i), 0)
		}
	}
	return c
}

// site is what the header of slot i says of its place.
func (c *chunk) site(i uint32) raid.Site {
	return raid.Site{Volume: uint32(c.volume), Group: raid.GroupID(c.spec.Group), Index: raid.Index(i)}
}

func (c *chunk) page(i uint32) []byte {
	o := int(i) * raid.PageSize
	return c.pages[o : o+raid.PageSize : o+raid.PageSize]
}

func (c *chunk) head(i uint32) []byte {
	n := int(c.spec.HeaderBytes)
	o := int(i) * n
	return c.heads[o : o+n : o+n]
}

// putUnlessNewer stores a page and its header in slot i, unless that holds something of
// a higher sequence than seq, or says that seq is dead: then it reports false.
func (c *chunk) putUnlessNewer(i uint32, seq raid.Seq, head, page []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h, err := raid.ParseHeader(c.head(i)); err == nil && (h.Seq > seq || h.Seq == seq && h.Kind == raid.KindErased) {
		return false
	}
	copy(c.page(i), page)
	copy(c.head(i), head)
	return true
}

// view calls f with header and page of slot i, which stay as they are until it
// returns, unless a write receives that page.
func (c *chunk) view(i uint32, f func(head, page []byte)) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	f(c.head(i), c.page(i))
}

// check reports whether all of io lies inside the chunk.
func (c *chunk) check(io *transport.SlotIO) error {
	if io.HeaderBytes != int(c.spec.HeaderBytes) {
		return fmt.Errorf("%w: chunk %d has headers of %d bytes, not %d", transport.ErrNoChunk, c.id, c.spec.HeaderBytes, io.HeaderBytes)
	}
	for _, r := range io.Runs {
		if uint64(r.Start)+uint64(r.Count) > uint64(c.spec.Slots) {
			return fmt.Errorf("%w: slots %d to %d of chunk %d, which has %d", transport.ErrNoChunk, r.Start, uint64(r.Start)+uint64(r.Count), c.id, c.spec.Slots)
		}
	}
	return nil
}

// appendPages appends the memory of io's pages to dst, neighbours joined.
func (c *chunk) appendPages(dst [][]byte, io *transport.SlotIO) [][]byte {
	seg, last := 0, ^uint32(0)
	for _, r := range io.Runs {
		for i := r.Start; i < r.Start+r.Count; i++ {
			if io.PageMask>>seg&1 != 0 {
				if k := len(dst) - 1; k >= 0 && last+1 == i && i != 0 {
					n := len(dst[k]) + raid.PageSize
					o := int(i+1)*raid.PageSize - n
					dst[k] = c.pages[o : o+n]
				} else {
					dst = append(dst, c.page(i))
				}
				last = i
			}
			seg++
		}
	}
	return dst
}
