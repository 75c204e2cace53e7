package crashloop

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// tick orders what workers begin and end.
type tick uint64

const never = ^tick(0)

// op is a write, a trim or a zeroing.
type op struct {
	what       string
	value      value
	first      cell
	n          int // cells
	begin, end tick
	answered   bool // it ended without an error
	ended      time.Time
}

// version is what an op made of one cell.
type version struct {
	*op
	dead tick // from when on a read that begins must not see it any more
	read tick // when the first read ended that certainly saw it
}

// judge is a plain model of the volume: what each cell may read as.
//
// A version is dead when something newer is certain:
//
//   - an op was answered that began after the version's op had ended, with
//     success or not;
//   - a read returned such a newer one;
//   - a read returned another one, after this one was answered, or read.
//
// Ops that failed, and those that a crash cut off, may have happened, or happen
// when the next client recovers, until they are dead.
type judge struct {
	mu    sync.Mutex
	now   tick
	ids   value
	cells [][]*version
	ops   []*op
	count struct{ writes, failed, reads, readErrors int }
}

func newJudge(pages int) *judge {
	j := &judge{cells: make([][]*version, pages*cellsPerPage), ids: firstStamp}
	fresh := &op{what: "nothing was written", n: len(j.cells), answered: true}
	for i := range j.cells {
		j.cells[i] = []*version{{op: fresh, dead: never, read: never}}
	}
	return j
}

func (j *judge) tickLocked() tick {
	j.now++
	return j.now
}

// time is now.
func (j *judge) time() tick {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.tickLocked()
}

// begin notes an op before it is submitted. stamp gives it a value of its own.
func (j *judge) begin(what string, v value, stamp bool, first cell, n int) *op {
	j.mu.Lock()
	defer j.mu.Unlock()
	if stamp {
		j.ids++
		v = j.ids
	}
	o := &op{what: what, value: v, first: first, n: n, begin: j.tickLocked(), end: never}
	j.ops = append(j.ops, o)
	for c := first; c < first+cell(n); c++ {
		j.cells[c] = append(j.cells[c], &version{op: o, dead: never, read: never})
	}
	j.count.writes++
	return o
}

// end notes how an op ended.
func (j *judge) end(o *op, answered bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	o.end, o.answered, o.ended = j.tickLocked(), answered, time.Now()
	if !answered {
		j.count.failed++
		return
	}
	for c := o.first; c < o.first+cell(o.n); c++ {
		for _, v := range j.cells[c] {
			if v.end < o.begin {
				v.dead = min(v.dead, o.end)
			}
		}
	}
}

// fault is a read that was wrong.
type fault struct {
	kind Kind
	text string
}

// read judges a read of n cells that began at the tick began. It lists what is
// wrong.
func (j *judge) read(began tick, first cell, n int, data []byte) (wrong []fault) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.count.reads++
	end := j.tickLocked()
	base := first.offset()
	var seen [cellsPerPage][]*version // of the page
	for c := first; c < first+cell(n); c++ {
		b := data[c.offset()-base : (c+1).offset()-base]
		k := int(c) % cellsPerPage
		if k == 0 {
			clear(seen[:])
		}
		v := valueOf(c, b)
		var found []*version
		for _, x := range j.cells[c] {
			if x.value == v && x.dead > began {
				found = append(found, x)
			}
		}
		seen[k] = found
		if len(found) == 0 {
			kind := Stale
			if v == garbage {
				kind = Foreign
			}
			wrong = append(wrong, fault{kind, j.wrongLocked(c, v, began)})
			continue
		}
		j.sawLocked(c, found, began, end)
		for i, other := range seen[:k] {
			if torn(other, found, c-cell(k)+cell(i), c) {
				wrong = append(wrong, fault{Torn, fmt.Sprintf("page %d is a mixture: cell %d of %s, cell %d of %s", c.page(), i, other[0].op, k, found[0].op)})
			}
		}
	}
	return wrong
}

// torn reports whether two cells of one page cannot come from one order of the
// ops: each has what the other's op would have covered.
func torn(a, b []*version, ca, cb cell) bool {
	if len(a) != 1 || len(b) != 1 || a[0].op == b[0].op {
		return false
	}
	return a[0].covers(cb) && b[0].covers(ca)
}

func (o *op) covers(c cell) bool { return c >= o.first && c < o.first+cell(o.n) }

// sawLocked draws the conclusions of a read that saw one of found.
func (j *judge) sawLocked(c cell, found []*version, began, end tick) {
	for _, v := range j.cells[c] {
		if v.dead != never || slices.Contains(found, v) {
			continue
		}
		older := true
		for _, f := range found {
			older = older && v.end < f.begin
		}
		if older || v.answered && v.end < began || v.read < began {
			v.dead = end
		}
	}
	if len(found) == 1 {
		found[0].read = min(found[0].read, end)
	}
}

// readFailed counts a read that ended with an error.
func (j *judge) readFailed() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.count.readErrors++
}

// settle forgets dead versions. Nothing may be under way.
func (j *judge) settle() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for c := range j.cells {
		j.cells[c] = slices.DeleteFunc(j.cells[c], func(v *version) bool { return v.dead != never })
	}
}

func (o *op) String() string {
	how := "answered"
	switch {
	case o.end == never:
		how = "under way"
	case !o.answered:
		how = "failed"
	}
	return fmt.Sprintf("%s (%d to %d, %s)", o.what, o.begin, int64(o.end), how)
}

// wrongLocked says what is wrong with the content of a cell.
func (j *judge) wrongLocked(c cell, v value, began tick) string {
	var b strings.Builder
	fmt.Fprintf(&b, "page %d, cell %d, read begun at %d: ", c.page(), int(c)%cellsPerPage, began)
	switch {
	case v == garbage:
		b.WriteString("content that nobody wrote there")
	case v < firstStamp:
		fmt.Fprintf(&b, "all bytes are %d, which is older than what was answered or read", v)
	default:
		b.WriteString("older than what was answered or read: ")
	}
	for _, o := range j.ops {
		if v >= firstStamp && o.value == v {
			b.WriteString(o.String())
		}
	}
	b.WriteString("; ops of the cell:")
	var mine []*op
	for _, o := range j.ops {
		if o.covers(c) {
			mine = append(mine, o)
		}
	}
	for _, o := range mine[max(0, len(mine)-8):] {
		fmt.Fprintf(&b, "\n      %v", o)
	}
	b.WriteString("\n   it may be:")
	for _, x := range j.cells[c] {
		if x.dead > began {
			fmt.Fprintf(&b, "\n      %v", x.op)
			if x.read != never {
				fmt.Fprintf(&b, ", read at %d", x.read)
			}
		}
	}
	return b.String()
}

// rewritten reports whether a write of a whole page was answered that began after
// each of some ticks and ended before t.
func (j *judge) rewritten(page int, t time.Time, after ...tick) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	from := slices.Max(after)
	for _, o := range slices.Backward(j.ops) {
		if o.begin <= from {
			break
		}
		c := cell(page * cellsPerPage)
		if o.answered && o.ended.Before(t) && o.covers(c) && o.covers(c+cellsPerPage-1) {
			return true
		}
	}
	return false
}
