package raid

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	smallRandom = flag.Duration("small.random", 0, "TestSmallRandom: walk at random for so long, each geometry its share")
	smallSeed   = flag.Uint64("small.seed", 0, "its seed; 0: a new one, or 1 when it walks a little only")
)

var smallMore = flag.String("small.more", "", "further kinds of events")

// smallLength is how many events a random walk has at most.
const smallLength = 25

// TestSmallRandom walks small worlds at random: further than TestSmallScopes, which takes
// every way, and with all kinds of events at once. What it finds is made short, and is a
// schedule for smallRegression. Versions that are older than they may be count always;
// refusals only when no more than M members were out.
//
// Long walks still find refusals with K <= M (docs/failure.md, Known faults).
func TestSmallRandom(t *testing.T) {
	names := []string{"mirror:2", "mirror:3", "rs:2+1", "rs:2+2"}
	if *smallGeometry != "" {
		names = []string{*smallGeometry}
	}
	seed := max(*smallSeed, 1)
	if *smallSeed == 0 && *smallRandom > 0 {
		seed = rand.Uint64()
	}
	for _, name := range names {
		g, err := ParseGeometry(name)
		if err != nil {
			t.Fatal(err)
		}
		share := *smallRandom / time.Duration(len(names))
		walks := 500
		if share > 0 {
			walks = 0
		}
		r := &randomWalks{x: newSmallScope(g, 1, uint32(*smallRowsFlag), smallAll+*smallMore), rng: rand.New(rand.NewPCG(seed, 7))}
		n := 0
		for end := time.Now().Add(share); n < walks || time.Now().Before(end); n++ {
			if path, fault := r.walk(); fault != "" {
				t.Errorf("%v, seed %d, walk %d: %s\n   %s", g, seed, n, fault, strings.Join(r.short(path, fault), "; "))
				break
			}
		}
		t.Logf("%v: %d walks", g, n)
	}
}

// randomWalks are walks of one scope.
type randomWalks struct {
	x   *smallScope
	rng *rand.Rand
}

// counts reports whether a fault is one: also beyond M losses nothing may be older.
func counts(w *smallWorld, fault string) bool {
	return fault != "" && (!w.over || strings.Contains(fault, "reads as version"))
}

// walk goes one way, with weights of its own for the kinds of events, so that walks
// differ in kind. It gives the way and the fault at its end.
func (r *randomWalks) walk() (path []string, fault string) {
	w := newSmallWorld(r.x)
	k := &smallWalk{check: true}
	weight := map[string]float64{}
	for range smallLength {
		e, ok := r.event(w, weight)
		if !ok {
			break
		}
		before := w.clone()
		w.pick = r.choice(before, e, k)
		done, fault := k.step(w, e)
		switch {
		case fault != "":
			k.path = append(k.path, k.one(e, w.pick))
			if counts(w, fault) {
				return k.path, fault
			}
			return nil, ""
		case !done:
			w = before
		default:
			k.path = append(k.path, k.one(e, w.pick))
		}
	}
	return nil, ""
}

// event chooses what happens next.
func (r *randomWalks) event(w *smallWorld, weight map[string]float64) (e smallEvent, ok bool) {
	var events []smallEvent
	var sums []float64
	sum, count := 0.0, map[string]float64{}
	w.next(func(e smallEvent) { count[e.what]++ })
	w.next(func(e smallEvent) {
		if _, ok := weight[e.what]; !ok {
			weight[e.what] = [...]float64{0, 0.2, 1, 1, 3, 8}[r.rng.IntN(6)]
			switch e.what {
			case "open", "finish", "done":
				weight[e.what] += 2
			case "settle":
				weight[e.what] += 3
			case "back":
				weight[e.what]++
			}
		}
		sum += weight[e.what] / count[e.what]
		events, sums = append(events, e), append(sums, sum)
	})
	if sum == 0 {
		return e, false
	}
	x, at := r.rng.Float64()*sum, 0
	for sums[at] < x {
		at++
	}
	return events[at], true
}

// choice answers at random what an event asks for: how many answers there are shows when
// it is tried.
func (r *randomWalks) choice(w *smallWorld, e smallEvent, k *smallWalk) *smallChoice {
	script := []int{}
	for {
		c := &smallChoice{script: append([]int(nil), script...)}
		n := w.clone()
		n.pick = c
		steps := k.steps
		k.step(n, e)
		k.steps = steps
		if len(c.sizes) <= len(script) {
			return &smallChoice{script: script}
		}
		script = append(script, r.rng.IntN(c.sizes[len(script)]))
	}
}

// short leaves out events, one or two at a time, for as long as a fault of the kind is left.
func (r *randomWalks) short(path []string, fault string) []string {
	kind := strings.Join(strings.Fields(fault)[:3], " ")
	if strings.Contains(fault, "reads as version") {
		kind = "reads as version"
	}
	for again := true; again; {
		again = false
		for i := 0; i < len(path) && !again; i++ {
			for j := i; j < len(path) && !again; j++ {
				p := append([]string(nil), path[:i]...)
				if p = append(p, path[i+1:]...); j > i {
					p = append(p[:j-1], p[j:]...)
				}
				if n := r.fails(p, kind); n > 0 {
					path, again = p[:n], true
				}
			}
		}
	}
	return path
}

// fails is after how many events of a path a fault of the kind is there; 0: never.
func (r *randomWalks) fails(path []string, kind string) (after int) {
	defer func() {
		// Without what was left out an event may end in fewer ways.
		if v := recover(); v != nil && !strings.HasPrefix(fmt.Sprint(v), "small: choice") {
			panic(v)
		}
	}()
	w := newSmallWorld(r.x)
	k := &smallWalk{check: true}
	for i, s := range path {
		parts := strings.Split(s, "/")
		f := strings.Fields(parts[0])
		on, err := strconv.ParseUint(f[1], 10, 32)
		if err != nil {
			return 0
		}
		e, valid := smallEvent{what: f[0], on: uint32(on)}, false
		w.next(func(o smallEvent) { valid = valid || o == e })
		if !valid {
			return 0
		}
		w.pick = &smallChoice{}
		for _, q := range parts[1:] {
			v, err := strconv.Atoi(q)
			if err != nil {
				return 0
			}
			w.pick.script = append(w.pick.script, v)
		}
		switch done, fault := k.step(w, e); {
		case fault != "" && strings.Contains(fault, kind) && counts(w, fault):
			return i + 1
		case fault != "" || !done:
			return 0
		}
	}
	return 0
}
