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

// goldenHeaders are headers of format 3 and their bytes as they lie in servers'
// memory. They come from another implementation, checksums included.
var goldenHeaders = []struct {
	name  string
	h     Header
	table []RowEntry
	bytes string
}{
	{
		name: "page",
		h: Header{Kind: KindPage, Filled: 0x0f, Members: 0x3f, Page: 0x0102030405060708, Seq: 0x1112131415161718,
			Settled: 0x1112131415161710, CRC: 0x31323334, Site: Site{Volume: 0x21222324, Group: 0x41424344, Index: 0x51525354}},
		bytes: "d30100000f0000003f00000024232221" + "0807060504030201" + "1817161514131211" + "1017161514131211" +
			"44434241" + "54535251" + zeros32 + "34333231" + "beee6c88",
	},
	{
		name: "fill",
		h:    Header{Kind: KindFill, Fill: 0xaa, Filled: 1, Members: 1, Page: 9, Seq: 8, Site: Site{Volume: 7}},
		bytes: "d302aa00010000000100000007000000" + "0900000000000000" + "0800000000000000" + "0000000000000000" +
			"00000000" + "00000000" + zeros32 + "00000000" + "e4379efc",
	},
	{
		name: "view",
		h:    Header{Kind: KindView, Members: 0x3d, Seq: 8, Settled: 7, Site: Site{Volume: 7, Group: 6, Index: 1}},
		bytes: "d3050000000000003d00000007000000" + "0000000000000000" + "0800000000000000" + "0700000000000000" +
			"06000000" + "01000000" + zeros32 + "00000000" + "5e87b0aa",
	},
	{
		name: "erased",
		h:    Header{Kind: KindErased, Seq: 8, Site: Site{Volume: 7, Group: 6, Index: 5}},
		bytes: "d3060000000000000000000007000000" + "0000000000000000" + "0800000000000000" + "0000000000000000" +
			"06000000" + "05000000" + zeros32 + "00000000" + "a10e0b39",
	},
	{
		name: "parity",
		h:    Header{Kind: KindParity, Filled: 0b1011, Members: 0x3f, Seq: 2, Settled: 1, CRC: 0x55, Site: Site{Volume: 1, Group: 3, Index: 4}},
		table: []RowEntry{
			{Page: 0x0807060504030201, CRC: 0x0d0c0b0a, Kind: KindPage},
			{CRC: 7, Kind: KindNotes},
			{},
			{Page: 3, CRC: 4, Kind: KindPage},
		},
		bytes: "d30400000b0000003f00000001000000" + "0000000000000000" + "0200000000000000" + "0100000000000000" +
			"03000000" + "04000000" + zeros32 + "55000000" + "f21076cd" +
			"0102030405060708" + "0a0b0c0d" + "01000000" + zeros24 +
			"0000000000000000" + "07000000" + "03000000" + zeros24 +
			"0000000000000000" + "00000000" + "00000000" + zeros24 +
			"0300000000000000" + "04000000" + "01000000" + zeros24,
	},
}

const (
	zeros24 = "000000000000000000000000000000000000000000000000"
	zeros32 = zeros24 + "0000000000000000"
)

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
		Settled: Seq(rapid.Uint64().Draw(t, "settled")),
		CRC:     rapid.Uint32().Draw(t, "crc"),
		Site: Site{
			Volume: rapid.Uint32().Draw(t, "volume"),
			Group:  GroupID(rapid.Uint32().Draw(t, "group")),
			Index:  Index(rapid.Uint32().Draw(t, "index")),
		},
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
	binary.LittleEndian.PutUint32(b[headerSum:], headerCRC(b))
	return b
}

func set(b []byte, at int, v byte) []byte {
	b[at] = v
	return seal(b)
}

// What no writer of this version produces is refused even with a right
// checksum.
func TestHeaderRefusals(t *testing.T) {
	page := func() []byte { return unhex(t, goldenHeaders[0].bytes) }
	parity := func() []byte { return unhex(t, goldenHeaders[4].bytes) }
	for name, b := range map[string][]byte{
		"nothing":                   nil,
		"one byte short":            page()[:HeaderSize-1],
		"one byte long":             append(page(), 0),
		"half an entry":             parity()[:HeaderSize+RowEntrySize/2],
		"too long":                  make([]byte, MaxHeaderSize+RowEntrySize),
		"unknown kind":              set(page(), 1, byte(KindErased)+1),
		"erased, with a page":       set(page(), 1, byte(KindErased)),
		"erased, with a row table":  set(parity(), 1, byte(KindErased)),
		"empty, with a seq":         set(page(), 1, byte(KindEmpty)),
		"another format":            set(page(), 0, headerFormat+1),
		"empty of no format":        set(page(), 0, 0),
		"page with a row table":     seal(append(page(), make([]byte, RowEntrySize)...)),
		"parity without row table":  set(page(), 1, byte(KindParity)),
		"view with a row table":     set(parity(), 1, byte(KindView)),
		"row table of another K":    parity()[:HeaderSize+3*RowEntrySize],
		"reserved":                  set(page(), 3, 1),
		"reserved beside filled":    set(page(), 7, 1),
		"key id":                    set(page(), 48, 1),
		"page tag":                  set(page(), 71, 1),
		"header tag":                set(page(), 79, 1),
		"reserved in table":         set(parity(), HeaderSize+13, 1),
		"tag in table":              set(parity(), HeaderSize+16, 1),
		"parity in table":           set(parity(), HeaderSize+12, byte(KindParity)),
		"filled, but not in table":  set(parity(), 4, 0b1111),
		"in table, but not filled":  set(parity(), 4, 0b1010),
		"checksum over header only": func() []byte { b := parity(); b[HeaderSize] ^= 1; return b }(),
	} {
		if h, err := ParseHeader(b); !errors.Is(err, ErrBadHeader) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

// A header of a later version is told from one that was damaged.
func TestHeaderOfAnotherFormat(t *testing.T) {
	for _, at := range []int{0, 3, 6, 48} {
		b := unhex(t, goldenHeaders[0].bytes)
		if _, err := ParseHeader(set(b, at, b[at]+1)); !errors.Is(err, ErrHeaderFormat) {
			t.Errorf("byte %d: %v", at, err)
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
		{Geometry{K: 4, M: 2}, 4, HeaderSize + 160},
		{Geometry{K: 4, M: 2}, 5, HeaderSize + 160},
		{Geometry{K: MaxData, M: MaxParity}, MaxData, MaxHeaderSize},
	} {
		if got := HeaderBytes(test.g, test.c); got != test.want {
			t.Errorf("column %d of %v: %d bytes, want %d", test.c, test.g, got, test.want)
		}
	}
}

func TestHeaderDoesNotAllocate(t *testing.T) {
	h, table := goldenHeaders[4].h, goldenHeaders[4].table
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
	h, table := goldenHeaders[4].h, goldenHeaders[4].table
	buf := make([]byte, HeaderSize+len(table)*RowEntrySize)
	for b.Loop() {
		h.Put(buf, table)
	}
}

func BenchmarkParseHeader(b *testing.B) {
	buf := encode(goldenHeaders[4].h, goldenHeaders[4].table)
	for b.Loop() {
		if _, err := ParseHeader(buf); err != nil {
			b.Fatal(err)
		}
	}
}
