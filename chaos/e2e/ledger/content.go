package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// BlockSize is the unit of the ledger: a page.
const BlockSize = 4096

// A block is a head of four words and random words that depend on it, so that
// every byte of it is checked and no two blocks or versions look alike.
//
//	bytes 0..8    magic
//	8..16         block number
//	16..24        version
//	24..32        seed of the run
//	32..4096      splitmix64 of the three words above
const (
	magic    = 0x6c65646765723031 // "ledger01"
	headSize = 32
)

// version of a block's content. 0 is a block that reads as zeros: never
// written, or trimmed by an operation whose version was then given out too (see
// Ledger), so zeros are checked by what is allowed, not by a number in them.
type version uint64

// encode fills a block.
func encode(p []byte, seed, block uint64, v version) {
	binary.LittleEndian.PutUint64(p, magic)
	binary.LittleEndian.PutUint64(p[8:], block)
	binary.LittleEndian.PutUint64(p[16:], uint64(v))
	binary.LittleEndian.PutUint64(p[24:], seed)
	x := bodySeed(seed, block, v)
	for i := headSize; i < BlockSize; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], next(&x))
	}
}

func bodySeed(seed, block uint64, v version) uint64 {
	return seed ^ block*0x9e3779b97f4a7c15 ^ uint64(v)*0xbf58476d1ce4e5b9
}

// next is splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
// Generators, 2014): fast, and good enough to make pages that differ.
func next(x *uint64) uint64 {
	*x += 0x9e3779b97f4a7c15
	z := *x
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// errZeros says that a block reads as zeros: a question for the ledger.
var errZeros = errors.New("all zeros")

// decode reads the version of a block and checks every byte of it. Other
// errors than errZeros are damage: what the block holds was never written there.
func decode(p []byte, seed, block uint64) (version, error) {
	switch m := binary.LittleEndian.Uint64(p); m {
	case magic:
	case 0:
		for i := 0; i < BlockSize; i += 8 {
			if binary.LittleEndian.Uint64(p[i:]) != 0 {
				return 0, fmt.Errorf("zeros up to byte %d, then something else", i)
			}
		}
		return 0, errZeros
	default:
		return 0, fmt.Errorf("foreign data: % x", p[:16])
	}
	gotBlock, v, gotSeed := binary.LittleEndian.Uint64(p[8:]), version(binary.LittleEndian.Uint64(p[16:])), binary.LittleEndian.Uint64(p[24:])
	if gotSeed != seed {
		return 0, fmt.Errorf("data of another run (seed %#x)", gotSeed)
	}
	if gotBlock != block {
		return 0, fmt.Errorf("data of block %d, version %d", gotBlock, v)
	}
	x := bodySeed(seed, block, v)
	for i := headSize; i < BlockSize; i += 8 {
		if binary.LittleEndian.Uint64(p[i:]) != next(&x) {
			return 0, fmt.Errorf("version %d, damaged from byte %d on", v, i)
		}
	}
	return v, nil
}
