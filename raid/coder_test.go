package raid

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/reedsolomon"
	"pgregory.net/rapid"
)

// allGeometries is every geometry that Validate accepts.
func allGeometries() []Geometry {
	var all []Geometry
	for k := range MaxData + 2 {
		for m := range MaxParity + 2 {
			if g := (Geometry{K: k, M: m}); g.Validate() == nil {
				all = append(all, g)
			}
		}
	}
	return all
}

func newCoder(t testing.TB, g Geometry) *Coder {
	t.Helper()
	c, err := NewCoder(g)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func randomPage(rnd *rand.Rand) []byte {
	b := make([]byte, PageSize)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// testRow is an encoded row: unfilled data columns are pages of zeros.
func testRow(c *Coder, filled uint16, rnd *rand.Rand) [][]byte {
	g := c.Geometry()
	row := make([][]byte, g.Members())
	data := make([][]byte, g.K)
	for d := range g.K {
		row[d] = make([]byte, PageSize)
		if filled&(1<<d) != 0 {
			row[d] = randomPage(rnd)
			data[d] = row[d]
		}
	}
	for p := g.K; p < g.Members(); p++ {
		row[p] = randomPage(rnd) // must not matter
	}
	c.EncodeRow(data, row[g.K:])
	return row
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// The table must be what its comment says, for all time: parity that servers
// hold depends on it.
func TestGeneratorIsTheScaledCauchyMatrix(t *testing.T) {
	var gf reedsolomon.LowLevel
	mul := func(a, b byte) byte {
		out := make([]byte, 1)
		gf.GalMulSlice(a, []byte{b}, out)
		return out[0]
	}
	cauchy := func(p, d int) byte { return reedsolomon.Inv(byte(MaxData+p) ^ byte(d)) }
	for p := range MaxParity {
		row := func(d int) byte { return mul(cauchy(p, d), reedsolomon.Inv(cauchy(0, d))) }
		for d := range MaxData {
			if want := mul(row(d), reedsolomon.Inv(row(0))); generator[p][d] != want {
				t.Errorf("generator[%d][%d] = %#x, want %#x", p, d, generator[p][d], want)
			}
		}
	}
	for d := range MaxData {
		if generator[0][d] != 1 {
			t.Errorf("the first parity is not an exclusive or: column %d has %#x", d, generator[0][d])
		}
	}
}

// Golden parity, computed by hand from the definition of generator: 0x11 ^ 0x22 ^ 0x33 ^
// 0x44, and 0x11 ^ 0x82*0x22 ^ 0x0a*0x33 ^ 0x15*0x44.
func TestEncodeGolden(t *testing.T) {
	c := newCoder(t, Geometry{K: 4, M: 2})
	row := make([][]byte, 6)
	for i := range row {
		row[i] = bytes.Repeat([]byte{byte(0x11 * (i + 1))}, PageSize)
	}
	c.EncodeRow(row[:4], row[4:])
	for i, want := range []byte{0x44, 0x1b} {
		if !bytes.Equal(row[4+i], bytes.Repeat([]byte{want}, PageSize)) {
			t.Errorf("parity %d is %#x..., want %#x", i, row[4+i][:4], want)
		}
	}
}

// The library's own encoder, given the same matrix, must compute the same.
func TestEncodeAgreesWithLibrary(t *testing.T) {
	rnd := newRand(1)
	for _, g := range allGeometries() {
		if g.M == 0 {
			continue
		}
		matrix := make([][]byte, g.M)
		for p := range matrix {
			matrix[p] = generator[p][:g.K]
		}
		lib, err := reedsolomon.New(g.K, g.M, reedsolomon.WithCustomMatrix(matrix))
		if err != nil {
			t.Fatal(err)
		}
		c := newCoder(t, g)
		for _, filled := range []uint16{1<<g.K - 1, 1, 1 << (g.K - 1), uint16(rnd.Uint32()) & (1<<g.K - 1), 0} {
			if ok, err := lib.Verify(testRow(c, filled, rnd)); err != nil || !ok {
				t.Errorf("%v filled %#b: the library disagrees (%v)", g, filled, err)
			}
		}
	}
}

// Any K of K+M, for every geometry and every set of lost members.
func TestEveryLossUpToMIsRepaired(t *testing.T) {
	for _, g := range allGeometries() {
		if raceDetector && g.K > 6 {
			continue // ten times as slow, and there is nothing to race
		}
		c := newCoder(t, g)
		filled := uint16(1<<g.K - 1)
		row := testRow(c, filled, newRand(uint64(g.K*8+g.M)))
		all := uint32(1)<<g.Members() - 1
		dst := make([]byte, PageSize)
		for lost := uint32(1); lost <= all; lost++ {
			if bits.OnesCount32(lost) > g.M {
				continue
			}
			for w := lost; w != 0; w &= w - 1 {
				want := Col(bits.TrailingZeros32(w))
				shards := make([][]byte, len(row))
				for i := range row {
					if lost&(1<<i) == 0 {
						shards[i] = row[i]
					}
				}
				if err := c.Reconstruct(shards, all&^lost, filled, want, dst); err != nil {
					t.Fatalf("%v lost %#b want %d: %v", g, lost, want, err)
				}
				if !bytes.Equal(dst, row[want]) {
					t.Fatalf("%v lost %#b want %d: wrong bytes", g, lost, want)
				}
			}
		}
	}
}

// With random members at hand and random columns filled, everything that can
// be had is right and everything else is refused, and Sources is enough and
// no more than K.
func TestReconstructProperty(t *testing.T) {
	geometries := allGeometries()
	rapid.Check(t, func(t *rapid.T) {
		g := rapid.SampledFrom(geometries).Draw(t, "geometry")
		c, err := NewCoder(g)
		if err != nil {
			t.Fatal(err)
		}
		all := uint32(1)<<g.Members() - 1
		filled := rapid.Uint16().Draw(t, "filled") & (1<<g.K - 1)
		have := rapid.Uint32().Draw(t, "have") & all
		row := testRow(c, filled, newRand(rapid.Uint64().Draw(t, "seed")))
		unfilled := uint32(^filled) & (1<<g.K - 1)

		for want := range Col(g.Members()) {
			at := have &^ (1 << want)
			possible := bits.OnesCount32(at|unfilled) >= g.K || unfilled&(1<<want) != 0
			sources, err := c.Sources(have, filled, want)
			if errors.Is(err, ErrTooFew) == possible {
				t.Fatalf("column %d of %v, have %#b, filled %#b: %v", want, g, have, filled, err)
			}
			dst := bytes.Repeat([]byte{0xa5}, PageSize)
			if err != nil {
				if err := c.Reconstruct(row, have, filled, want, dst); !errors.Is(err, ErrTooFew) {
					t.Fatalf("Sources refused, Reconstruct: %v", err)
				}
				if !bytes.Equal(dst, bytes.Repeat([]byte{0xa5}, PageSize)) {
					t.Fatal("refused, but the buffer was written")
				}
				continue
			}
			if sources&^at != 0 || bits.OnesCount32(sources) > min(g.K, bits.OnesCount16(filled)) {
				t.Fatalf("sources %#b of %#b for column %d, filled %#b", sources, have, want, filled)
			}
			shards := make([][]byte, len(row)) // only what Sources asked for
			for i := range row {
				if sources&(1<<i) != 0 {
					shards[i] = row[i]
				}
			}
			if err := c.Reconstruct(shards, sources, filled, want, dst); err != nil {
				t.Fatalf("from its sources %#b: %v", sources, err)
			}
			if !bytes.Equal(dst, row[want]) {
				t.Fatalf("column %d from %#b: wrong bytes", want, sources)
			}
		}
	})
}

// ReconstructSet is Reconstruct for each column at once, into the shards.
func TestReconstructSetProperty(t *testing.T) {
	geometries := allGeometries()
	rapid.Check(t, func(t *rapid.T) {
		g := rapid.SampledFrom(geometries).Draw(t, "geometry")
		c, err := NewCoder(g)
		if err != nil {
			t.Fatal(err)
		}
		all := uint32(1)<<g.Members() - 1
		filled := rapid.Uint16().Draw(t, "filled") & (1<<g.K - 1)
		have := rapid.Uint32().Draw(t, "have") & all
		want := rapid.Uint32().Draw(t, "want") & all
		rnd := newRand(rapid.Uint64().Draw(t, "seed"))
		row := testRow(c, filled, rnd)
		shards := make([][]byte, len(row))
		junk := make([][]byte, len(row))
		for i := range row {
			switch {
			case want&(1<<i) != 0:
				junk[i] = randomPage(rnd)
				shards[i] = bytes.Clone(junk[i])
			case have&(1<<i) != 0:
				shards[i] = row[i]
			}
		}
		unfilled := uint32(^filled) & (1<<g.K - 1)
		possible := bits.OnesCount32(have&^want|unfilled) >= g.K
		err = c.ReconstructSet(shards, have, filled, want)
		if errors.Is(err, ErrTooFew) == possible {
			t.Fatalf("%v have %#b want %#b filled %#b: %v", g, have, want, filled, err)
		}
		for i := range row {
			if want&(1<<i) == 0 {
				continue
			}
			expect := row[i]
			if err != nil {
				expect = junk[i]
			}
			if !bytes.Equal(shards[i], expect) {
				t.Fatalf("column %d of %#b, error %v: wrong bytes", i, want, err)
			}
		}
	})
}

// Verify accepts what belongs together and finds one changed bit anywhere.
func TestVerifyProperty(t *testing.T) {
	geometries := allGeometries()
	rapid.Check(t, func(t *rapid.T) {
		g := rapid.SampledFrom(geometries).Draw(t, "geometry")
		c, err := NewCoder(g)
		if err != nil {
			t.Fatal(err)
		}
		all := uint32(1)<<g.Members() - 1
		filled := rapid.Uint16().Draw(t, "filled") & (1<<g.K - 1)
		have := rapid.Uint32().Draw(t, "have") & all
		row := testRow(c, filled, newRand(rapid.Uint64().Draw(t, "seed")))
		at := have & (uint32(filled) | ^uint32(1<<g.K-1)) // shards that count
		err = c.Verify(row, have, filled)
		if bits.OnesCount32(at) <= bits.OnesCount16(filled) {
			if !errors.Is(err, ErrTooFew) {
				t.Fatalf("%v have %#b filled %#b: nothing to check, but %v", g, have, filled, err)
			}
			return
		}
		if err != nil {
			t.Fatalf("%v have %#b filled %#b: %v", g, have, filled, err)
		}
		var cols []int
		for i := range row {
			if at&(1<<i) != 0 {
				cols = append(cols, i)
			}
		}
		hurt := rapid.SampledFrom(cols).Draw(t, "hurt")
		row[hurt][rapid.IntRange(0, PageSize-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if err := c.Verify(row, have, filled); !errors.Is(err, ErrMismatch) {
			t.Fatalf("%v have %#b filled %#b: column %d is damaged, but %v", g, have, filled, hurt, err)
		}
	})
}

func TestEncodeSkipsUnwantedParity(t *testing.T) {
	c := newCoder(t, Geometry{K: 4, M: 2})
	row := testRow(c, 0b1111, newRand(3))
	second := make([]byte, PageSize)
	c.EncodeRow(row[:4], [][]byte{nil, second})
	if !bytes.Equal(second, row[5]) {
		t.Error("parity 1 differs when parity 0 is not wanted")
	}
}

func TestCoderRefusesMisuse(t *testing.T) {
	if _, err := NewCoder(Geometry{K: 3}); err == nil {
		t.Error("NewCoder took a geometry without parity")
	}
	c := newCoder(t, Geometry{K: 2, M: 1})
	row := testRow(c, 0b11, newRand(4))
	for name, f := range map[string]func(){
		"encode, one data page missing": func() { c.EncodeRow(row[:1], row[2:]) },
		"encode, short page":            func() { c.EncodeRow([][]byte{row[0][:512], row[1]}, row[2:]) },
		"encode, short parity":          func() { c.EncodeRow(row[:2], [][]byte{row[2][:512]}) },
		"reconstruct, too few shards":   func() { _ = c.Reconstruct(row[:2], 0b111, 0b11, 0, row[0]) },
		"reconstruct, no such column":   func() { _ = c.Reconstruct(row, 0b111, 0b11, 3, row[0]) },
		"reconstruct, absent shard":     func() { _ = c.Reconstruct(make([][]byte, 3), 0b110, 0b11, 0, row[0]) },
		"verify, short shard":           func() { _ = c.Verify([][]byte{row[0], row[1][:512], row[2]}, 0b111, 0b11) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: did not panic", name)
				}
			}()
			f()
		}()
	}
}

func TestCoderDoesNotAllocate(t *testing.T) {
	if raceDetector {
		t.Skip("the library's kernels allocate under the race detector")
	}
	for _, g := range []Geometry{{1, 2}, {2, 1}, {4, 2}, {16, 4}} {
		c := newCoder(t, g)
		filled := uint16(1<<g.K - 1)
		row := testRow(c, filled, newRand(5))
		all := uint32(1)<<g.Members() - 1
		lost := uint32(1)<<g.M - 1
		dst := make([]byte, PageSize)
		for name, f := range map[string]func(){
			"EncodeRow":      func() { c.EncodeRow(row[:g.K], row[g.K:]) },
			"Reconstruct":    func() { _ = c.Reconstruct(row, all&^lost, filled, 0, dst) },
			"ReconstructSet": func() { _ = c.ReconstructSet(row, all&^lost, filled, lost) },
			"Verify":         func() { _ = c.Verify(row, all, filled) },
			"Sources":        func() { _, _ = c.Sources(all&^lost, filled, 0) },
			"refusal":        func() { _ = c.Reconstruct(row, 0, filled, 0, dst) },
		} {
			if n := testing.AllocsPerRun(100, f); n != 0 {
				t.Errorf("%v: %s allocates %v times", g, name, n)
			}
		}
	}
}

var benchGeometries = []Geometry{{1, 2}, {2, 1}, {4, 1}, {4, 2}, {8, 2}, {8, 3}, {16, 4}}

func BenchmarkEncodeRow(b *testing.B) {
	for _, g := range benchGeometries {
		b.Run(g.String(), func(b *testing.B) {
			c := newCoder(b, g)
			row := testRow(c, 1<<g.K-1, newRand(6))
			b.ReportAllocs()
			b.SetBytes(int64(g.K) * PageSize)
			for b.Loop() {
				c.EncodeRow(row[:g.K], row[g.K:])
			}
		})
	}
}

// BenchmarkReconstruct rebuilds one page with as many members lost as may be.
func BenchmarkReconstruct(b *testing.B) {
	for _, g := range benchGeometries {
		for n := 1; n <= g.M; n += max(1, g.M-1) {
			b.Run(fmt.Sprintf("%v/lost=%d", g, n), func(b *testing.B) {
				c := newCoder(b, g)
				filled := uint16(1<<g.K - 1)
				row := testRow(c, filled, newRand(7))
				have := (uint32(1)<<g.Members() - 1) &^ (1<<n - 1)
				dst := make([]byte, PageSize)
				b.ReportAllocs()
				b.SetBytes(PageSize)
				for b.Loop() {
					if err := c.Reconstruct(row, have, filled, 0, dst); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	g := Geometry{K: 4, M: 2}
	c := newCoder(b, g)
	row := testRow(c, 0b1111, newRand(8))
	b.ReportAllocs()
	b.SetBytes(int64(g.Members()) * PageSize)
	for b.Loop() {
		if err := c.Verify(row, 0b111111, 0b1111); err != nil {
			b.Fatal(err)
		}
	}
}
