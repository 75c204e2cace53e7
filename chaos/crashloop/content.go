package crashloop

import (
	"encoding/binary"

	"dmps/raid"
)

// A page has four cells of odd lengths. What is written covers whole cells, so that
// each behaves as one register, and most writes of less than a page begin and end
// at odd bytes.
const cellsPerPage = 4

var bounds = [cellsPerPage + 1]int{0, 9, 1037, 3000, raid.PageSize}

// cell counts the cells of a volume.
type cell int

func (c cell) page() int { return int(c) / cellsPerPage }

// offset is the byte at which a cell begins.
func (c cell) offset() int64 {
	return int64(c.page())*raid.PageSize + int64(bounds[int(c)%cellsPerPage])
}

// value is what a cell holds: the id of the write that stamped it, or a byte that
// fills it. Zero is what nobody wrote, or somebody trimmed.
type value uint64

// firstStamp is the least id: below are the bytes that fill.
const firstStamp value = 1 << 16

// garbage is content that no write of this run made for that cell.
const garbage = ^value(0)

// put makes the content of a cell.
func (v value) put(c cell, dst []byte) {
	if v < firstStamp {
		for i := range dst {
			dst[i] = byte(v)
		}
		return
	}
	binary.LittleEndian.PutUint64(dst, uint64(v))
	x := v.seed(c)
	i := 8
	for ; i+8 <= len(dst); i += 8 {
		x = next(x)
		binary.LittleEndian.PutUint64(dst[i:], x)
	}
	for x = next(x); i < len(dst); i++ {
		dst[i] = byte(x)
		x >>= 8
	}
}

// seed makes the content another one in every cell, so that a page in another's
// place is noticed.
func (v value) seed(c cell) uint64 {
	return uint64(v)*0x9e3779b97f4a7c15 ^ (uint64(c)+1)*0xbf58476d1ce4e5b9 | 1
}

func next(x uint64) uint64 {
	x ^= x << 13
	x ^= x >> 7
	return x ^ x<<17
}

// valueOf reads the content of a cell.
func valueOf(c cell, src []byte) value {
	v := value(binary.LittleEndian.Uint64(src))
	if v < firstStamp || v == value(src[0])*0x0101010101010101 {
		for _, b := range src {
			if b != src[0] {
				return garbage
			}
		}
		return value(src[0])
	}
	x := v.seed(c)
	i := 8
	for ; i+8 <= len(src); i += 8 {
		if x = next(x); binary.LittleEndian.Uint64(src[i:]) != x {
			return garbage
		}
	}
	for x = next(x); i < len(src); i++ {
		if src[i] != byte(x) {
			return garbage
		}
		x >>= 8
	}
	return v
}
