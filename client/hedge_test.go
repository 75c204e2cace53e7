package client

import (
	"testing"

	"pgregory.net/rapid"
)

// TestHedgeBudget: second ways that are always the faster ones have no bound;
// those that are for nothing come to hedgeBurst and one page in hedgeShare.
func TestHedgeBudget(t *testing.T) {
	var slow hedgeBudget
	for n := range 100_000 {
		if !slow.take(0) {
			t.Fatalf("the %d. of those that help is refused", n+1)
		}
		slow.refund()
	}
	rapid.Check(t, func(t *rapid.T) {
		var b hedgeBudget
		read, open, taken, back := int64(0), int64(0), int64(0), int64(0)
		for range rapid.IntRange(1, 500).Draw(t, "steps") {
			read += rapid.Int64Range(0, 40).Draw(t, "read")
			switch got := b.take(read); {
			case got:
				taken, open = taken+1, open+1
			case taken-back+read/hedgeShare < hedgeBurst:
				t.Fatalf("refused with %d out of %d pages read", taken-back, read)
			}
			if open > 0 && rapid.Bool().Draw(t, "helps") {
				b.refund()
				back, open = back+1, open-1
			}
			if lost := taken - back; lost > hedgeBurst+read/hedgeShare {
				t.Fatalf("%d for nothing of %d pages read", lost, read)
			}
		}
	})
}
