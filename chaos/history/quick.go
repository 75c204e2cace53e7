package history

import (
	"slices"
	"time"
)

// quick looks for reads that are wrong whatever the order is: of a value that
// nobody wrote, that was written only after the read, or that had been overwritten
// for certain when the read began. What it passes may still be wrong. ops are
// settled.
func quick(ops []Op) *Violation {
	writes := map[Value]Op{}
	for _, op := range ops {
		if op.Changes() && op.Value != Zeros {
			writes[op.Value] = op
		}
	}
	over := newCover(ops)
	for _, r := range ops {
		if r.Kind != OpRead || r.Value == Zeros {
			continue
		}
		w, ok := writes[r.Value]
		switch {
		case !ok:
			return violation(ops, r, "nobody wrote that to this page")
		case w.Call > r.Return:
			return violation(ops, r, "that was written only after the read had ended")
		}
		if by, ok := over.between(w.Return, r.Call); ok {
			return violation(ops, r, "that had been overwritten by "+by.Value.String()+" before the read began")
		}
	}
	return nil
}

// cover finds a change that lies wholly between two times.
type cover struct {
	byCall []Op            // answered changes in order of their call
	ends   []time.Duration // ends[i] is the earliest return of byCall[i:]
	at     []int           // and whose it is
}

func newCover(ops []Op) *cover {
	c := &cover{}
	for _, op := range ops { // in order of call
		if op.Changes() && op.Outcome == OK {
			c.byCall = append(c.byCall, op)
		}
	}
	c.ends, c.at = make([]time.Duration, len(c.byCall)), make([]int, len(c.byCall))
	for i := len(c.byCall) - 1; i >= 0; i-- {
		c.ends[i], c.at[i] = c.byCall[i].Return, i
		if i+1 < len(c.byCall) && c.ends[i+1] < c.ends[i] {
			c.ends[i], c.at[i] = c.ends[i+1], c.at[i+1]
		}
	}
	return c
}

func (c *cover) between(from, to time.Duration) (Op, bool) {
	i, _ := slices.BinarySearchFunc(c.byCall, from, func(op Op, t time.Duration) int {
		if op.Call <= t {
			return -1
		}
		return 1
	})
	if i == len(c.byCall) || c.ends[i] >= to {
		return Op{}, false
	}
	return c.byCall[c.at[i]], true
}
