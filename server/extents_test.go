package server

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// Against a byte per byte of truth: extents never overlap, what is free can be had in
// runs of which only the last is a part, and all that is given back can be taken again.
func TestExtents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 512
		e := newExtents(size)
		owner := make([]byte, size)
		var held []extent
		for i := range rapid.IntRange(1, 100).Draw(t, "steps") {
			if len(held) > 0 && rapid.Bool().Draw(t, "give") {
				k := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				x := held[k]
				held = append(held[:k], held[k+1:]...)
				clear(owner[x.off : x.off+x.size])
				e.give(x)
			} else {
				n := int64(rapid.IntRange(1, 200).Draw(t, "size"))
				free := int64(bytes.Count(owner, []byte{0}))
				runs := e.take(n)
				if ok := runs != nil; ok != (free >= n) {
					t.Fatalf("take of %d: %v, and %d are free", n, ok, free)
				}
				if one := bytes.Contains(owner, make([]byte, n)); one && len(runs) != 1 {
					t.Fatalf("%d runs for %d bytes that lie together", len(runs), n)
				}
				for _, x := range runs {
					n -= x.size
					for j := x.off; j < x.off+x.size; j++ {
						if owner[j] != 0 {
							t.Fatalf("byte %d was given out twice", j)
						}
						owner[j] = byte(i + 1)
					}
					held = append(held, x)
				}
				if runs != nil && n != 0 {
					t.Fatalf("%d bytes too few", n)
				}
			}
			if err := e.check(); err != nil {
				t.Fatal(err)
			}
			if free := int64(bytes.Count(owner, []byte{0})); free != e.left {
				t.Fatalf("%d bytes are free, not %d", free, e.left)
			}
		}
	})
}

func TestExtentGivenTwice(t *testing.T) {
	e := newExtents(100)
	x := e.take(10)[0]
	e.give(x)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	e.give(x)
}
