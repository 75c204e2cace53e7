package paper

import (
	"dmps/chaos/figures"
	"fmt"
	"math/rand/v2"
	"time"
	"unsafe"
)

// FillRow is one pass over an array of 32-bit numbers.
type FillRow struct {
	Device string `json:"device"` // swap device, or Memory
	Pass   string `json:"pass"`   // PassFill, PassRead or PassRandom
	Array  int64  `json:"array"`  // bytes of the array
	Limit  int64  `json:"limit"`  // bytes of memory that the process may have
	figures.Moved
	VM   VM   `json:"vm"`
	Swap Disk `json:"swap"` // what the swap device did
}

// Passes over an array.
const (
	PassFill   = "fill"   // every number is stored, in order
	PassRead   = "read"   // every number is loaded and checked, in order
	PassRandom = "random" // one number of a page at random, as many as the array has pages
)

// Array is memory of its own that passes go over. It is not the Go heap:
// nothing but the passes touches it.
type Array struct {
	words []uint32
	free  func() error
}

// NewArray maps an array of n bytes, a multiple of a page.
func NewArray(n int64) (*Array, error) {
	if n <= 0 || n%pageSize != 0 {
		return nil, fmt.Errorf("an array of %d bytes: it must be pages", n)
	}
	b, free, err := Pages(n)
	if err != nil {
		return nil, err
	}
	return &Array{words: unsafe.Slice((*uint32)(unsafe.Pointer(&b[0])), n/4), free: free}, nil
}

// Close gives the memory back.
func (a *Array) Close() error {
	a.words = nil
	return a.free()
}

// number is what belongs at index i: cheap, and no page of them is uniform.
func number(i uint32) uint32 { return i*2654435761 ^ 0x5bd1e995 }

// Fill stores every number.
func (a *Array) Fill() figures.Moved {
	start := time.Now()
	for i := range a.words {
		a.words[i] = number(uint32(i))
	}
	return moved(int64(len(a.words))*4, start)
}

// Read loads every number and checks it.
func (a *Array) Read() (figures.Moved, error) {
	start := time.Now()
	for i, w := range a.words {
		if w != number(uint32(i)) {
			return figures.Moved{}, a.wrong(i)
		}
	}
	return moved(int64(len(a.words))*4, start), nil
}

// Random loads and checks one number of a page, pages at random. Bytes are
// counted as whole pages: that is what has to be moved.
func (a *Array) Random(pages int, seed uint64) (figures.Moved, error) {
	const perPage = pageSize / 4
	r := rand.New(rand.NewPCG(seed, 7))
	start := time.Now()
	for range pages {
		i := r.IntN(len(a.words))
		if a.words[i] != number(uint32(i)) {
			return figures.Moved{}, a.wrong(i)
		}
	}
	return moved(int64(pages)*perPage*4, start), nil
}

func (a *Array) wrong(i int) error {
	return fmt.Errorf("number %d of the array reads as %#x, not as the %#x that was stored", i, a.words[i], number(uint32(i)))
}
