package paper

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

const pageSize = 4096

// Content makes pages that no device can skip or share: incompressible bytes,
// and at the start of every page its own address (Stamp).
type Content struct {
	noise []byte // random, a multiple of a page
	seed  uint64
}

// NewContent makes content from a seed. Two contents with the same seed are equal.
func NewContent(seed uint64) *Content {
	r := rand.New(rand.NewPCG(seed, 0x64_6d_70_73))
	c := &Content{noise: make([]byte, 64*pageSize), seed: seed}
	for i := 0; i < len(c.noise); i += 8 {
		binary.LittleEndian.PutUint64(c.noise[i:], r.Uint64())
	}
	return c
}

// Stamp is what the first 8 bytes of the page at offset off say.
func (c *Content) Stamp(off int64) uint64 {
	return (uint64(off)/pageSize+1)*0x9e3779b97f4a7c15 ^ c.seed
}

// Fill makes b what belongs at offset off. Both must be multiples of a page.
func (c *Content) Fill(b []byte, off int64) {
	for n := 0; n < len(b); {
		n += copy(b[n:], c.noise[(off+int64(n))%int64(len(c.noise)):])
	}
	c.Restamp(b, off)
}

// Restamp moves b, which Fill has made, to another offset: a store a page. The
// bytes behind the stamps stay, so that making content costs next to nothing
// while it is being measured.
func (c *Content) Restamp(b []byte, off int64) {
	for n := 0; n < len(b); n += pageSize {
		binary.LittleEndian.PutUint64(b[n:], c.Stamp(off+int64(n)))
	}
}

// Check reports the first page of b, read at offset off, that is not what was
// written there.
func (c *Content) Check(b []byte, off int64) error {
	for n := 0; n < len(b); n += pageSize {
		at := off + int64(n)
		if got := binary.LittleEndian.Uint64(b[n:]); got != c.Stamp(at) {
			return fmt.Errorf("the page at %d reads as %#x, not as the %#x that was written", at, got, c.Stamp(at))
		}
	}
	return nil
}
