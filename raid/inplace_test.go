package raid

import (
	"testing"

	"pgregory.net/rapid"
)

// inPlaceLayout is a valid layout of one member a group.
func inPlaceLayout(kind LayoutKind, pages uint64, chunks int, slots uint32) *Layout {
	l := &Layout{Kind: kind, Geometry: Geometry{K: 1}, Pages: pages, ChunkSlots: slots, MinAck: 1}
	for i := range chunks {
		l.Groups = append(l.Groups, Group{ID: GroupID(i), Members: make([]Member, 1)})
	}
	return l
}

type place struct {
	g GroupID
	i Index
}

// checkInPlace walks all pages and all places: Locate is one to one, stays in
// range, and Page is its inverse and knows nothing else.
func checkInPlace(t *rapid.T, tr InPlace, pages uint64, sizes []uint32) {
	t.Helper()
	taken := make(map[place]PageNo)
	for p := range PageNo(pages) {
		g, i := tr.Locate(p)
		if int(g) >= len(sizes) || uint32(i) >= sizes[g] {
			t.Fatalf("page %d is at %d/%d, outside of %v", p, g, i, sizes)
		}
		if other, dup := taken[place{g, i}]; dup {
			t.Fatalf("pages %d and %d are both at %d/%d", other, p, g, i)
		}
		taken[place{g, i}] = p
	}
	for g := range GroupID(len(sizes) + 1) {
		slots := Index(1)
		if int(g) < len(sizes) {
			slots = Index(sizes[g]) + 1
		}
		for i := range slots {
			want, is := taken[place{g, i}]
			if p, ok := tr.Page(g, i); ok != is || ok && p != want {
				t.Fatalf("at %d/%d is page %d, %v; want %d, %v", g, i, p, ok, want, is)
			}
		}
	}
	defer func() {
		if recover() == nil {
			t.Fatalf("page %d of %d has a place", pages, pages)
		}
	}()
	tr.Locate(PageNo(pages))
}

func TestInPlaceFromLayoutProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]LayoutKind{LayoutLinear, LayoutStriped}).Draw(t, "kind")
		sizes := make([]uint32, rapid.IntRange(1, 12).Draw(t, "chunks"))
		slots := rapid.Uint32Range(1, 40).Draw(t, "slots")
		for i := range sizes {
			sizes[i] = slots
		}
		pages := rapid.Uint64Range(1, uint64(len(sizes))*uint64(slots)).Draw(t, "pages")
		tr, err := NewInPlace(inPlaceLayout(kind, pages, len(sizes), slots))
		if err != nil {
			t.Fatal(err)
		}
		checkInPlace(t, tr, pages, sizes)
	})
}

func TestLinearOfDifferentSizesProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.Uint32Range(0, 40), 1, 12).Draw(t, "sizes")
		total := uint64(0)
		for _, s := range sizes {
			total += uint64(s)
		}
		pages := rapid.Uint64Range(0, total).Draw(t, "pages")
		l, err := NewLinear(pages, sizes)
		if err != nil {
			t.Fatal(err)
		}
		checkInPlace(t, l, pages, sizes)

		// The equation itself: s_v = s_r + sum of S_i for i < n.
		for v := range PageNo(pages) {
			n, r := l.Locate(v)
			sum := uint64(r)
			for _, s := range sizes[:n] {
				sum += uint64(s)
			}
			if sum != uint64(v) {
				t.Fatalf("page %d: index %d in chunk %d of %v", v, r, n, sizes)
			}
		}
	})
}

// The largest volume, at the corners: nothing may wrap at 32 bits.
func TestInPlaceLargest(t *testing.T) {
	const slots = 1 << 14
	chunks := (MaxPages + slots - 1) / slots
	striped, err := NewStriped(MaxPages, chunks, slots)
	if err != nil {
		t.Fatal(err)
	}
	sizes := []uint32{1<<32 - 1, 1<<32 - 1, 10}
	linear, err := NewLinear(2<<32, sizes)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		tr   InPlace
		p    PageNo
		g    GroupID
		i    Index
	}{
		{"striped first", striped, 0, 0, 0},
		{"striped second row", striped, PageNo(chunks), 0, 1},
		{"striped last", striped, MaxPages - 1, GroupID((MaxPages - 1) % chunks), Index((MaxPages - 1) / chunks)},
		{"linear end of first", linear, 1<<32 - 2, 0, 1<<32 - 2},
		{"linear second", linear, 1<<32 - 1, 1, 0},
		{"linear last", linear, 2<<32 - 1, 2, 1},
	} {
		if g, i := test.tr.Locate(test.p); g != test.g || i != test.i {
			t.Errorf("%s: page %d is at %d/%d, want %d/%d", test.name, test.p, g, i, test.g, test.i)
		}
		if p, ok := test.tr.Page(test.g, test.i); !ok || p != test.p {
			t.Errorf("%s: at %d/%d is %d, %v", test.name, test.g, test.i, p, ok)
		}
	}
	if p, ok := striped.Page(GroupID(chunks-1), 1<<32-1); ok {
		t.Errorf("striped: page %d past the end", p)
	}
}

func TestInPlaceRefusals(t *testing.T) {
	if _, err := NewInPlace(inPlaceLayout(LayoutLog, 1, 1, 1)); err == nil {
		t.Error("a log has an in-place translator")
	}
	for _, kind := range []LayoutKind{LayoutLinear, LayoutStriped} {
		if _, err := NewInPlace(inPlaceLayout(kind, 9, 2, 4)); err == nil {
			t.Errorf("%v: 9 pages in 8 slots", kind)
		}
	}
	if _, err := NewLinear(9, []uint32{4, 4}); err == nil {
		t.Error("linear: 9 pages in 8 slots")
	}
	if _, err := NewStriped(1, 0, 4); err == nil {
		t.Error("striped over no chunks")
	}
}

func TestInPlaceDoesNotAllocate(t *testing.T) {
	for _, kind := range []LayoutKind{LayoutLinear, LayoutStriped} {
		tr, err := NewInPlace(inPlaceLayout(kind, 1000, 16, 64))
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() { tr.Page(tr.Locate(777)) }); n != 0 {
			t.Errorf("%v: %v allocations", kind, n)
		}
	}
}

func BenchmarkLocate(b *testing.B) {
	for _, kind := range []LayoutKind{LayoutLinear, LayoutStriped} {
		b.Run(kind.String(), func(b *testing.B) {
			tr, err := NewInPlace(inPlaceLayout(kind, 1<<20, 64, 1<<14))
			if err != nil {
				b.Fatal(err)
			}
			p := PageNo(0)
			for b.Loop() {
				tr.Locate(p)
				p = (p + 12345) % (1 << 20)
			}
		})
	}
}
