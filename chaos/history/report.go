package history

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
)

// Violation is a page that was not a register.
type Violation struct {
	Page   uint32
	Why    string
	Read   Op      // the first read that fits into no order
	Before []Value // what the page may have held before them; none: that does not matter
	Around []Op    // what is needed to see it, in order of call
}

func (v *Violation) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "page %d: a read returned %v: %s\n", v.Page, v.Read.Value, v.Why)
	if len(v.Before) > 0 {
		fmt.Fprintf(&b, "\tit held %v before\n", v.Before)
	}
	for _, op := range v.Around {
		mark := "  "
		if op == v.Read {
			mark = "> "
		}
		b.WriteString("\t" + mark + op.String() + "\n")
	}
	return strings.TrimRight(b.String(), "\n")
}

// most is how many ops a violation shows.
const most = 40

// violation shows a read with the writes of its value and of its time.
func violation(ops []Op, r Op, why string) *Violation {
	v := &Violation{Page: r.Page, Why: why, Read: r}
	from := r.Call
	for _, op := range ops {
		if op.Changes() && op.Value == r.Value && op.Value != Zeros {
			from = min(from, op.Call)
		}
	}
	var all []Op
	for _, op := range ops {
		if op == r || op.Return >= from && op.Call <= r.Return && (op.Changes() || op.Value == r.Value) {
			all = append(all, op)
		}
	}
	v.Around = middleOut(all)
	return v
}

// middleOut leaves out the middle of what is too long.
func middleOut(ops []Op) []Op {
	if len(ops) <= most {
		return ops
	}
	return slices.Concat(ops[:most/2], ops[len(ops)-most/2:])
}

// minimal finds the first read, by its return, that fits into no order of ops
// with those before it, and leaves out other reads that do not matter. The page
// could hold any of now before.
func minimal(now states, ops, open []Op, deadline time.Time) *Violation {
	var reads, changes []Op
	for _, op := range ops {
		if op.Changes() {
			changes = append(changes, op)
		} else {
			reads = append(reads, op)
		}
	}
	slices.SortStableFunc(reads, func(a, b Op) int { return cmp.Compare(a.Return, b.Return) })
	wrong := func(reads []Op) bool {
		h := slices.Concat(changes, reads)
		slices.SortStableFunc(h, func(a, b Op) int { return cmp.Compare(a.Call, b.Call) })
		if len(h) == 0 {
			return false
		}
		next, known := step(now, h, open, deadline)
		return known && len(next) == 0
	}
	// Changes alone always fit, and more reads never mend anything.
	n := sort.Search(len(reads), func(n int) bool { return wrong(reads[:n+1]) })
	n = min(n, len(reads)-1) // if there was no time to find it
	needed := reads[:n+1]
	for i := n - 1; i >= 0; i-- {
		if without := slices.Delete(slices.Clone(needed), i, i+1); wrong(without) {
			needed = without
		}
	}
	bad := reads[n]
	v := &Violation{Page: bad.Page, Why: "no order of the operations fits all of these", Read: bad}
	for s := range now {
		v.Before = append(v.Before, s)
	}
	slices.Sort(v.Before)
	for _, op := range ops {
		if op.Changes() && op.Call <= bad.Return || slices.Contains(needed, op) {
			v.Around = append(v.Around, op)
		}
	}
	v.Around = middleOut(v.Around)
	return v
}
