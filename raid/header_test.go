package raid

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// goldenHeaders are headers and their bytes as they lie in servers' memory.
// The checksums come from another implementation of CRC-32C.
var goldenHeaders = []struct {
	name  string
	h     Header
	table []RowEntry
	bytes string
}{
	{
		name: "page",
		h: Header{Kind: KindPage, Filled: 0x0f, Members: 0x3f, Page: 0x0102030405060708, Seq: 0x1112131415161718,
			Epoch: 0x21222324, CRC: 0x31323334},
		bytes: "01000f003f000000" + "0807060504030201" + "1817161514131211" + "24232221" + "34333231" + "00000000" + "2aff713c",
	},
	{
		name:  "fill",
		h:     Header{Kind: KindFill, Fill: 0xaa, Filled: 1, Members: 1, Page: 9, Seq: 8, Epoch: 7},
		bytes: "02aa010001000000" + "0900000000000000" + "0800000000000000" + "07000000" + "00000000" + "00000000" + "0318158d",
	},
	{
		name: "parity",
		h:    Header{Kind: KindParity, Filled: 0b1011, Members: 0x3f, Seq: 2, Epoch: 1, CRC: 0x55},
		table: []RowEntry{
			{Page: 0x0807060504030201, CRC: 0x0d0c0b0a, Kind: KindPage},
			{CRC: 7, Kind: KindNotes},
			{},
			{Page: 3, CRC: 4, Kind: KindPage},
		},
		bytes: "04000b003f000000" + "0000000000000000" + "0200000000000000" + "01000000" + "55000000" + "00000000" + "e7dfdfbc" +
			"0102030405060708" + "0a0b0c0d" + "01000000" +
			"0000000000000000" + "07000000" + "03000000" +
			"0000000000000000" + "00000000" + "00000000" +
			"0300000000000000" + "04000000" + "01000000",
	},
}

func encode(h Header, table []RowEntry) []byte {
	b := bytes.Repeat([]byte{0xff}, HeaderSize+len(table)*RowEntrySize)
	h.Put(b, table)
	return b
}

func decodeTable(b []byte) []RowEntry {
	var table []RowEntry
	for i := range RowTable(b) {
		table = append(table, ParseRowEntry(b, i))
	}
	return table
}

func TestHeaderGolden(t *testing.T) {
	for _, test := range goldenHeaders {
		want := unhex(t, test.bytes)
		if got := encode(test.h, test.table); !bytes.Equal(got, want) {
			t.Errorf("%s:\n got %x\nwant %x", test.name, got, want)
		}
		h, err := ParseHeader(want)
		if err != nil || h != test.h {
			t.Errorf("%s: parsed %+v, %v", test.name, h, err)
			continue
		}
		for i, e := range decodeTable(want) {
			if e != test.table[i] {
				t.Errorf("%s: entry %d is %+v", test.name, i, e)
			}
		}
	}
}

// RFC 3720, appendix B.4.
func TestChecksumVectors(t *testing.T) {
	ascending := make([]byte, 32)
	for i := range ascending {
		ascending[i] = byte(i)
	}
	for _, test := range []struct {
		in   []byte
		want uint32
	}{
		{make([]byte, 32), 0x8a9136aa},
		{bytes.Repeat([]byte{0xff}, 32), 0x62a8ab43},
		{ascending, 0x46dd794e},
	} {
		if got := Checksum(test.in); got != test.want {
			t.Errorf("Checksum(%x) = %#x, want %#x", test.in, got, test.want)
		}
	}
}

func TestHeaderSingleBitFlipsAreRefused(t *testing.T) {
	for _, test := range goldenHeaders {
		b := unhex(t, test.bytes)
		for bit := range len(b) * 8 {
			b[bit/8] ^= 1 << (bit % 8)
			if h, err := ParseHeader(b); !errors.Is(err, ErrBadHeader) {
				t.Errorf("%s, bit %d of byte %d flipped: %+v, %v", test.name, bit%8, bit/8, h, err)
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
	}
}

var anyHeader = rapid.Custom(func(t *rapid.T) Header {
	return Header{
		Kind:    rapid.SampledFrom([]HeaderKind{KindPage, KindFill, KindNotes, KindParity}).Draw(t, "kind"),
		Fill:    rapid.Byte().Draw(t, "fill"),
		Filled:  rapid.Uint16().Draw(t, "filled"),
		Members: rapid.Uint32().Draw(t, "members"),
		Page:    PageNo(rapid.Uint64().Draw(t, "page")),
		Seq:     Seq(rapid.Uint64().Draw(t, "seq")),
		Epoch:   rapid.Uint32().Draw(t, "epoch"),
		CRC:     rapid.Uint32().Draw(t, "crc"),
	}
})

// anyTable is a row table that agrees with filled.
func anyTable(t *rapid.T, filled uint16) []RowEntry {
	table := make([]RowEntry, rapid.IntRange(1, MaxData).Draw(t, "k"))
	for i := range table {
		if filled&(1<<i) != 0 {
			table[i] = RowEntry{
				Page: PageNo(rapid.Uint64().Draw(t, "page")),
				CRC:  rapid.Uint32().Draw(t, "crc"),
				Kind: rapid.SampledFrom([]HeaderKind{KindPage, KindNotes}).Draw(t, "kind"),
			}
		}
	}
	return table
}

func TestHeaderRoundTripProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyHeader.Draw(t, "header")
		var table []RowEntry
		if want.Kind == KindParity {
			table = anyTable(t, want.Filled)
		}
		b := encode(want, table)
		got, err := ParseHeader(b)
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		for i, e := range decodeTable(b) {
			if e != table[i] {
				t.Fatalf("entry %d: got %+v, want %+v", i, e, table[i])
			}
		}
		bit := rapid.IntRange(0, len(b)*8-1).Draw(t, "bit")
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := ParseHeader(b); !errors.Is(err, ErrBadHeader) {
			t.Fatalf("bit %d of byte %d flipped: %v", bit%8, bit/8, err)
		}
	})
}

func TestEmptyHeader(t *testing.T) {
	for _, n := range []int{HeaderSize, HeaderSize + 4*RowEntrySize, MaxHeaderSize} {
		if h, err := ParseHeader(make([]byte, n)); err != nil || h != (Header{}) {
			t.Errorf("%d zeros: %+v, %v", n, h, err)
		}
	}
}

// seal makes the checksum of b right, whatever b holds.
func seal(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[36:], headerCRC(b))
	return b
}

// What no writer of this version produces is refused even with a right
// checksum.
func TestHeaderRefusals(t *testing.T) {
	page := func() []byte { return unhex(t, goldenHeaders[0].bytes) }
	parity := func() []byte { return unhex(t, goldenHeaders[2].bytes) }
	for name, b := range map[string][]byte{
		"nothing":                   nil,
		"one byte short":            page()[:HeaderSize-1],
		"one byte long":             append(page(), 0),
		"half an entry":             parity()[:HeaderSize+RowEntrySize/2],
		"too long":                  make([]byte, MaxHeaderSize+RowEntrySize),
		"unknown kind":              seal(append([]byte{byte(KindParity) + 1}, page()[1:]...)),
		"empty, with a seq":         seal(append([]byte{byte(KindEmpty)}, page()[1:]...)),
		"page with a row table":     seal(append(page(), make([]byte, RowEntrySize)...)),
		"parity without row table":  seal(append([]byte{byte(KindParity)}, page()[1:]...)),
		"row table of another K":    parity()[:HeaderSize+3*RowEntrySize],
		"reserved":                  seal(func() []byte { b := page(); b[33] = 1; return b }()),
		"reserved in table":         seal(func() []byte { b := parity(); b[HeaderSize+13] = 1; return b }()),
		"parity in table":           seal(func() []byte { b := parity(); b[HeaderSize+12] = byte(KindParity); return b }()),
		"filled, but not in table":  seal(func() []byte { b := parity(); b[2] |= 1 << 2; return b }()),
		"in table, but not filled":  seal(func() []byte { b := parity(); b[2] &^= 1 << 0; return b }()),
		"checksum over header only": func() []byte { b := parity(); b[HeaderSize] ^= 1; return b }(),
	} {
		if h, err := ParseHeader(b); !errors.Is(err, ErrBadHeader) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

func TestHeaderPutPanicsOnWrongSize(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("Put took a buffer of the wrong size")
		}
	}()
	(&Header{Kind: KindPage}).Put(make([]byte, HeaderSize+1), nil)
}

func TestHeaderBytes(t *testing.T) {
	for _, test := range []struct {
		g    Geometry
		c    Col
		want int
	}{
		{Geometry{K: 1}, 0, HeaderSize},
		{Geometry{K: 1, M: 2}, 2, HeaderSize}, // a copy, header and all
		{Geometry{K: 4, M: 2}, 3, HeaderSize},
		{Geometry{K: 4, M: 2}, 4, HeaderSize + 64},
		{Geometry{K: 4, M: 2}, 5, HeaderSize + 64},
		{Geometry{K: MaxData, M: MaxParity}, MaxData, MaxHeaderSize},
	} {
		if got := HeaderBytes(test.g, test.c); got != test.want {
			t.Errorf("column %d of %v: %d bytes, want %d", test.c, test.g, got, test.want)
		}
	}
}

func TestHeaderDoesNotAllocate(t *testing.T) {
	h, table := goldenHeaders[2].h, goldenHeaders[2].table
	b := make([]byte, HeaderSize+len(table)*RowEntrySize)
	if n := testing.AllocsPerRun(100, func() {
		h.Put(b, table)
		if got, err := ParseHeader(b); err != nil || got != h || ParseRowEntry(b, 3) != table[3] {
			panic("round trip")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzParseHeader tries each input as it is and with its checksum made right,
// which a fuzzer does not find. What is accepted is the only encoding of what it says.
func FuzzParseHeader(f *testing.F) {
	for _, test := range goldenHeaders {
		f.Add(unhex(f, test.bytes))
	}
	f.Add(make([]byte, HeaderSize))
	f.Add(make([]byte, MaxHeaderSize))
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzHeader(t, b)
		if len(b) >= HeaderSize {
			fuzzHeader(t, seal(bytes.Clone(b)))
		}
	})
}

func fuzzHeader(t *testing.T, b []byte) {
	h, err := ParseHeader(b)
	if err != nil {
		if !errors.Is(err, ErrBadHeader) {
			t.Fatalf("not ErrBadHeader: %v", err)
		}
		return
	}
	if h.Kind == KindEmpty {
		if !isZero(b) {
			t.Fatal("empty, but not zero")
		}
		return
	}
	if again := encode(h, decodeTable(b)); !bytes.Equal(again, b) {
		t.Fatalf("encoding it again:\n got %x\nfrom %x", again, b)
	}
}

func BenchmarkHeaderPut(b *testing.B) {
	h, table := goldenHeaders[2].h, goldenHeaders[2].table
	buf := make([]byte, HeaderSize+len(table)*RowEntrySize)
	for b.Loop() {
		h.Put(buf, table)
	}
}

func BenchmarkParseHeader(b *testing.B) {
	buf := encode(goldenHeaders[2].h, goldenHeaders[2].table)
	for b.Loop() {
		if _, err := ParseHeader(buf); err != nil {
			b.Fatal(err)
		}
	}
}
