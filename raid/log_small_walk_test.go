package raid

import (
	"flag"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	smallDepth    = flag.Int("small.depth", 0, "events of the longest schedules that TestSmallScopes walks; 0: a few")
	smallGeometry = flag.String("small.geometry", "", "the geometry that TestSmallScopes walks (none, mirror:2, rs:2+1, ...); empty: all small ones")
	smallEvents   = flag.String("small.events", "", "letters of the kinds of events (smallKinds); empty: each of the usual sets")
	smallGroups   = flag.Int("small.groups", 1, "groups")
	smallRowsFlag = flag.Uint("small.rows", 6, "rows of a group, two of them for the view")
	smallTime     = flag.Duration("small.time", 0, "stop to deepen after this long, all walks together, each its share; 0: at the depth")
	smallTable    = flag.Int("small.table", 1<<18, "states that are remembered")
)

// smallWalk walks all schedules up to some length, depth first. What was walked
// before with as many events to go is not walked again.
type smallWalk struct {
	hasher   smallHasher
	table    []uint64  // number of a state, with the events that were left in the low 8 bits
	paths    []float32 // likewise: how many schedules go on from there, at least
	states   int       // in the table
	steps    uint64    // events of this depth
	total    uint64    // and of all
	most     uint64    // go no deeper when one depth took more events than that; 0: do
	refusals uint64
	check    bool
	path     []string
	until    time.Time
	stopped  bool
}

func newSmallWalk(x *smallScope, size int) *smallWalk {
	n := 1
	for n < size*2 {
		n *= 2
	}
	return &smallWalk{hasher: smallHasher{seed: maphash.MakeSeed(), full: strings.Contains(x.events, "o")}, table: make([]uint64, n), paths: make([]float32, n), check: true}
}

// find gives the place of a world in the table, and reports whether it was walked
// with so many events left; if not it is noted now. at is -1 when there is no room.
func (k *smallWalk) find(w *smallWorld, left int) (at int, seen bool) {
	h := k.hasher.hash(w)&^0xff | 1<<63
	for i := (h >> 20) & uint64(len(k.table)-1); ; i = (i + 1) & uint64(len(k.table)-1) {
		switch e := k.table[i]; {
		case e == 0 && k.states >= len(k.table)*3/4:
			return -1, false
		case e == 0:
			k.states++
		case e&^0xff != h:
			continue
		case int(e&0xff) >= left:
			return int(i), true
		}
		k.table[i], k.paths[i] = h|uint64(left), 1
		return int(i), false
	}
}

// visit walks everything that can follow w. It returns how many schedules that are, at
// least, and what the judge found, with the schedule that shows it; "": nothing.
func (k *smallWalk) visit(w *smallWorld, left int) (paths float64, fault string) {
	if left == 0 || k.stopped {
		return 1, ""
	}
	if k.steps%1024 == 0 && !k.until.IsZero() && time.Now().After(k.until) {
		k.stopped = true
		return 1, ""
	}
	var events []smallEvent
	w.next(func(e smallEvent) { events = append(events, e) })
	for _, e := range events {
		choice := &smallChoice{}
		for more := true; more; more = choice.next() {
			n := w.clone()
			n.pick = choice
			done, fault := k.step(n, e)
			if fault != "" {
				return 0, k.schedule(e, choice) + "\n" + fault
			}
			if !done {
				continue
			}
			at, seen := k.find(n, left-1)
			if seen {
				if int(k.table[at]&0xff) == left-1 {
					paths += float64(k.paths[at])
				} else {
					paths++ // more than that, but they were not counted
				}
				continue
			}
			k.path = append(k.path, k.one(e, choice))
			some, fault := k.visit(n, left-1)
			if fault != "" {
				return 0, fault
			}
			paths += some
			if at >= 0 && int(k.table[at]&0xff) == left-1 {
				k.paths[at] = float32(some)
			}
			k.path = k.path[:len(k.path)-1]
		}
	}
	return max(paths, 1), ""
}

// step has one event happen.
func (k *smallWalk) step(w *smallWorld, e smallEvent) (done bool, fault string) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case smallFault:
			fault = string(r)
		case string:
			if strings.HasPrefix(r, "small:") {
				panic(r)
			}
			fault = "panic: " + r
		default:
			panic(r)
		}
	}()
	k.steps++
	if !w.apply(e) {
		return false, ""
	}
	if w.refused && (e.what == "open" || e.what == "takeover") {
		k.refusals++
	}
	if k.check && w.cur != nil {
		held := 0
		for _, op := range w.cur.ops {
			held += op.p.Rows
		}
		if err := w.cur.log.Check(held); err != nil {
			return true, err.Error()
		}
	}
	return true, ""
}

func (k *smallWalk) one(e smallEvent, c *smallChoice) string {
	s := e.String()
	for _, n := range c.script[:len(c.sizes)] {
		s += "/" + strconv.Itoa(n)
	}
	return s
}

func (k *smallWalk) schedule(e smallEvent, c *smallChoice) string {
	return strings.Join(append(slices.Clone(k.path), k.one(e, c)), "; ")
}

// playSmall plays a schedule as a walk prints it: events with what they happen to, and
// behind slashes how they end.
func playSmall(x *smallScope, schedule string) (*smallWorld, error) {
	w := newSmallWorld(x)
	k := &smallWalk{check: true}
	for _, s := range strings.Split(schedule, "; ") {
		parts := strings.Split(s, "/")
		var e smallEvent
		if _, err := fmt.Sscanf(parts[0], "%s %d", &e.what, &e.on); err != nil {
			return nil, fmt.Errorf("event %q: %w", s, err)
		}
		w.pick = &smallChoice{}
		for _, p := range parts[1:] {
			n, err := strconv.Atoi(p)
			if err != nil {
				return nil, fmt.Errorf("event %q: %w", s, err)
			}
			w.pick.script = append(w.pick.script, n)
		}
		done, fault := k.step(w, e)
		if fault != "" {
			return w, fmt.Errorf("%s: %s", s, fault)
		}
		if !done {
			return w, fmt.Errorf("%s: nothing happens", s)
		}
	}
	return w, nil
}

// TestSmallScopes walks every schedule of a small world up to some length. What it
// finds is a schedule of the least events: it becomes a test of its own
// (log_small_found_test.go).
func TestSmallScopes(t *testing.T) {
	geometries := []Geometry{{1, 0}, {1, 1}, {1, 2}, {2, 1}, {2, 2}}
	if *smallGeometry != "" {
		g, err := ParseGeometry(*smallGeometry)
		if err != nil {
			t.Fatal(err)
		}
		geometries = []Geometry{g}
	}
	sets := []string{"wc", "wtc", "wfc", "wec", "wmc", "wcz", "wco", "wcl", "wfk", "wck"}
	if *smallEvents != "" {
		sets = []string{*smallEvents}
	}
	var walks []*smallScope
	for _, g := range geometries {
		for _, events := range sets {
			if g.M > 0 || !strings.ContainsAny(events, "czlo") {
				walks = append(walks, newSmallScope(g, *smallGroups, uint32(*smallRowsFlag), events))
			}
		}
	}
	depth, share, most := *smallDepth, *smallTime/time.Duration(len(walks)), uint64(0)
	if depth == 0 {
		if depth, most = 100, 10000; raceDetector {
			most = 1000
		}
	}
	var steps uint64
	var states int
	var paths float64
	for _, x := range walks {
		t.Run(x.cfg.Geometry.String()+"/"+x.events, func(t *testing.T) {
			k := newSmallWalk(x, *smallTable)
			k.most = most
			n, deepest := k.deepen(t, x, depth, share)
			steps, states, paths = steps+k.total, states+deepest, paths+n
		})
	}
	t.Logf("%d walks: %d states, at least %.3g schedules, %d events in all", len(walks), states, paths, steps)
}

// deepen walks longer and longer schedules, up to depth, until the time is over. It
// gives what the last walk that came to its end saw: schedules, and states.
func (k *smallWalk) deepen(t *testing.T, x *smallScope, depth int, share time.Duration) (paths float64, states int) {
	start := time.Now()
	if share > 0 {
		k.until = start.Add(share)
	}
	for d := 1; d <= depth; d++ {
		clear(k.table)
		k.states, k.steps, k.refusals, k.path = 0, 0, 0, nil
		n, fault := k.visit(newSmallWorld(x), d)
		k.total += k.steps
		if fault != "" {
			t.Fatalf("%v, %d groups of %d rows, events %s:\n%s", x.cfg.Geometry, x.cfg.Groups, x.cfg.Rows, x.events, fault)
		}
		if k.stopped {
			t.Logf("%d events: not to the end: %d states, %d events", d, k.states, k.steps)
			break
		}
		paths, states = n, k.states
		t.Logf("%d events: at least %.3g schedules, %d states, %d events, %d refusals, %v", d, n, k.states, k.steps, k.refusals, time.Since(start).Round(time.Millisecond))
		if k.most != 0 && k.steps > k.most {
			break
		}
	}
	return paths, states
}
