package raid

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func TestNotesGolden(t *testing.T) {
	page := bytes.Repeat([]byte{0xff}, PageSize)
	n := NewNotes(page)
	n.Append(NoteRecord{Start: 0x01020304, Count: 0x0a0b0c, Fill: 0xee, Seq: 0x1122334455667788})
	n.Append(NoteRecord{Start: 5, Count: 1})
	want, err := hex.DecodeString("" +
		"444d504e" + "0100" + "0200" + "0000000000000000" +
		"0403020100000000" + "8877665544332211" + "0c0b0a00" + "ee" + "000000" +
		"0500000000000000" + "0000000000000000" + "01000000" + "00" + "000000")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(page[:len(want)], want) {
		t.Errorf("got  %x\nwant %x", page[:len(want)], want)
	}
	if !isZero(page[len(want):]) {
		t.Error("the rest of the page is not zero")
	}
	if MaxNotes != 170 {
		t.Errorf("a page holds %d records", MaxNotes)
	}
}

var validRecord = rapid.Custom(func(t *rapid.T) NoteRecord {
	start := rapid.Uint64Range(0, MaxPages-1).Draw(t, "start")
	return NoteRecord{
		Start: PageNo(start),
		Count: uint32(rapid.Uint64Range(1, min(MaxPages-start, 1<<32-1)).Draw(t, "count")),
		Fill:  rapid.Byte().Draw(t, "fill"),
		Seq:   Seq(rapid.Uint64().Draw(t, "seq")),
	}
})

func TestNotesRoundTripProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(validRecord, 0, MaxNotes+3).Draw(t, "records")
		page := bytes.Repeat([]byte{0xff}, PageSize) // what was there must not matter
		w := NewNotes(page)
		for i, r := range want {
			before := bytes.Clone(page)
			if fit := w.Append(r); fit != (i < MaxNotes) {
				t.Fatalf("record %d of %d: room = %v", i, MaxNotes, fit)
			} else if !fit && !bytes.Equal(page, before) {
				t.Fatal("no room, but the page changed")
			}
		}
		want = want[:min(len(want), MaxNotes)]
		got, err := ParseNotes(page)
		if err != nil {
			t.Fatal(err)
		}
		if got.Len() != len(want) {
			t.Fatalf("%d records, want %d", got.Len(), len(want))
		}
		for i, r := range want {
			if got.At(i) != r {
				t.Fatalf("record %d: %+v, want %+v", i, got.At(i), r)
			}
		}
	})
}

func TestNotesRefusals(t *testing.T) {
	good := func() []byte {
		page := make([]byte, PageSize)
		n := NewNotes(page)
		n.Append(NoteRecord{Start: 1, Count: 2, Fill: 3, Seq: 4})
		n.Append(NoteRecord{Start: MaxPages - 1, Count: 1})
		return page
	}
	if _, err := ParseNotes(good()); err != nil {
		t.Fatal(err)
	}
	record := func(i int) int { return notesHead + i*NoteSize }
	for name, hurt := range map[string]func(b []byte) []byte{
		"empty":                     func(b []byte) []byte { return nil },
		"short":                     func(b []byte) []byte { return b[:PageSize-1] },
		"long":                      func(b []byte) []byte { return append(b, 0) },
		"zeros":                     func(b []byte) []byte { clear(b); return b },
		"magic":                     func(b []byte) []byte { b[0] ^= 1; return b },
		"version":                   func(b []byte) []byte { b[4]++; return b },
		"one record less":           func(b []byte) []byte { b[6]--; return b },
		"one record more":           func(b []byte) []byte { b[6]++; return b },
		"too many records":          func(b []byte) []byte { b[6] = MaxNotes + 1; return b },
		"far too many records":      func(b []byte) []byte { b[6], b[7] = 0xff, 0xff; return b },
		"reserved in head":          func(b []byte) []byte { b[15] = 1; return b },
		"reserved in record":        func(b []byte) []byte { b[record(1)+22] = 1; return b },
		"last byte":                 func(b []byte) []byte { b[PageSize-1] = 1; return b },
		"empty run":                 func(b []byte) []byte { b[record(0)+16] = 0; return b },
		"run past the last page":    func(b []byte) []byte { b[record(1)+16]++; return b },
		"run that wraps 64 bits":    func(b []byte) []byte { copy(b[record(0):], bytes.Repeat([]byte{0xff}, 8)); return b },
		"start past the last page":  func(b []byte) []byte { b[record(1)]++; return b },
		"start at the largest page": func(b []byte) []byte { b[record(1)+7] = 0x80; return b },
	} {
		if _, err := ParseNotes(hurt(good())); !errors.Is(err, ErrBadNotes) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNotesMisusePanics(t *testing.T) {
	n := NewNotes(make([]byte, PageSize))
	for name, f := range map[string]func(){
		"short page":        func() { NewNotes(make([]byte, PageSize-1)) },
		"empty run":         func() { n.Append(NoteRecord{Start: 1}) },
		"run past the end":  func() { n.Append(NoteRecord{Start: MaxPages - 1, Count: 2}) },
		"start past end":    func() { n.Append(NoteRecord{Start: 1<<64 - 1, Count: 1}) },
		"record past Len":   func() { n.At(0) },
		"record before all": func() { n.At(-1) },
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
	if n.Len() != 0 {
		t.Errorf("%d records after refusals", n.Len())
	}
}

func TestNotesDoNotAllocate(t *testing.T) {
	page := make([]byte, PageSize)
	if got := testing.AllocsPerRun(100, func() {
		n := NewNotes(page)
		for n.Append(NoteRecord{Start: 7, Count: 1}) {
		}
		if n, err := ParseNotes(page); err != nil || n.At(MaxNotes-1).Start != 7 {
			panic("lost a record")
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

// Whatever ParseNotes accepts can be walked, lies inside the largest volume,
// and is the only encoding of what it says.
func FuzzParseNotes(f *testing.F) {
	page := make([]byte, PageSize)
	f.Add(page)
	n := NewNotes(page)
	f.Add(bytes.Clone(page))
	n.Append(NoteRecord{Start: 1, Count: 2, Fill: 3, Seq: 4})
	f.Add(bytes.Clone(page))
	for n.Append(NoteRecord{Start: MaxPages - 1, Count: 1, Seq: 1<<64 - 1}) {
	}
	f.Add(bytes.Clone(page))
	f.Add(page[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := ParseNotes(b)
		if err != nil {
			if !errors.Is(err, ErrBadNotes) {
				t.Fatalf("not ErrBadNotes: %v", err)
			}
			return
		}
		again := NewNotes(make([]byte, PageSize))
		for i := range n.Len() {
			r := n.At(i)
			if end := uint64(r.Start) + uint64(r.Count); end > MaxPages || end <= uint64(r.Start) {
				t.Fatalf("record %d: %+v", i, r)
			}
			if !again.Append(r) {
				t.Fatalf("record %d of %d does not fit", i, n.Len())
			}
		}
		if !bytes.Equal(again.page, b) {
			t.Fatal("encoding it again gives other bytes")
		}
	})
}
