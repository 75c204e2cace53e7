package server

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// Against a byte per byte of truth: extents never overlap, and all that is given
// back can be taken again.
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
				x, ok := e.take(n)
				if fits := bytes.Contains(owner, make([]byte, n)); ok != fits {
					t.Fatalf("take of %d: %v, but it fits: %v", n, ok, fits)
				}
				if ok {
					for j := x.off; j < x.off+x.size; j++ {
						if owner[j] != 0 {
							t.Fatalf("byte %d was given out twice", j)
						}
						owner[j] = byte(i + 1)
					}
					held = append(held, x)
				}
			}
			if err := e.check(size); err != nil {
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
	x, _ := e.take(10)
	e.give(x)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	e.give(x)
}
