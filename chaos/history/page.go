package history

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// PageSize is the unit of the history.
const PageSize = 4096

// Value names a write: the number of its writer and of its write, or Zeros.
type Value uint64

// Zeros is what a page holds that was never written, or trimmed.
const Zeros Value = 0

const counterBits = 48

// NewValue is the n-th write of a writer, both counted from 1.
func NewValue(writer uint16, n uint64) Value {
	if writer == 0 || n == 0 || n >= 1<<counterBits {
		panic(fmt.Sprintf("history: write %d of writer %d has no value", n, writer))
	}
	return Value(uint64(writer)<<counterBits | n)
}

func (v Value) String() string {
	if v == Zeros {
		return "zeros"
	}
	return fmt.Sprintf("w%d.%d", v>>counterBits, v&(1<<counterBits-1))
}

// A page holds, in words of 8 bytes, little endian: magic, page, value, run,
// then a pattern that follows from these. Every byte is checked, so a page that is
// torn, or another's, or of another run, cannot pass.
const (
	magic     = 0x646d7073_63686173
	headWords = 4
)

// Fill writes the content of a page that a write leaves.
func Fill(p []byte, run uint64, page uint32, v Value) {
	le := binary.LittleEndian
	le.PutUint64(p, magic)
	le.PutUint64(p[8:], uint64(page))
	le.PutUint64(p[16:], uint64(v))
	le.PutUint64(p[24:], run)
	x := pattern(run, page, v)
	for i := headWords * 8; i < PageSize; i += 8 {
		le.PutUint64(p[i:], mix(&x))
	}
}

func pattern(run uint64, page uint32, v Value) uint64 {
	return run ^ uint64(page)*0x9e3779b97f4a7c15 ^ uint64(v)*0xbf58476d1ce4e5b9
}

// mix is splitmix64 (Steele, Lea, Flood, 2014).
func mix(x *uint64) uint64 {
	*x += 0x9e3779b97f4a7c15
	z := *x
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// ErrForeign is content that no write of this run ever put on this page.
var ErrForeign = errors.New("foreign content")

// Read tells which write a page's content is from. Errors: ErrForeign, with
// what is wrong.
func Read(p []byte, run uint64, page uint32) (Value, error) {
	le := binary.LittleEndian
	switch m := le.Uint64(p); m {
	case 0:
		for i := 0; i < PageSize; i += 8 {
			if le.Uint64(p[i:]) != 0 {
				return 0, fmt.Errorf("%w: zeros up to byte %d, then something else", ErrForeign, i)
			}
		}
		return Zeros, nil
	case magic:
	default:
		return 0, fmt.Errorf("%w: it begins with % x", ErrForeign, p[:16])
	}
	gotPage, v, gotRun := le.Uint64(p[8:]), Value(le.Uint64(p[16:])), le.Uint64(p[24:])
	switch {
	case gotRun != run:
		return 0, fmt.Errorf("%w: of another run (%#x)", ErrForeign, gotRun)
	case gotPage != uint64(page):
		return 0, fmt.Errorf("%w: page %d, %v", ErrForeign, gotPage, v)
	}
	x := pattern(run, page, v)
	for i := headWords * 8; i < PageSize; i += 8 {
		if le.Uint64(p[i:]) != mix(&x) {
			return 0, fmt.Errorf("%w: %v, torn or damaged from byte %d on", ErrForeign, v, i)
		}
	}
	return v, nil
}
