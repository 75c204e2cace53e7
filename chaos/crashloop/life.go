package crashloop

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"dmps/client"
	"dmps/raid"
)

// hangs is far more than anything may take.
const hangs = 2 * time.Hour

// contextOf ends with the life's power.
func contextOf(w *wire) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), hangs)
	go func() {
		select {
		case <-w.dead:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// one is one life, with what happens in it.
func (r *run) one() {
	l, err := r.open(false)
	if err != nil {
		r.refused(l, err)
		return
	}
	ops := []int{2, 6, 30, 30, 100, 300}[r.r.IntN(6)]
	switch {
	case r.brief || r.r.IntN(2) == 0:
		l.audit()
	case len(r.failed) > 0 && r.r.IntN(2) == 0:
		l.style, ops = &undo, 1+r.r.IntN(6)
	}
	if r.r.IntN(2) == 0 {
		l.w.crashAt.Store(l.w.transfers.Load() + 1 + r.r.Int64N(int64(6*ops*l.style.workers)))
	}
	l.start(l.style, ops)
	r.brief = l.style.undo && r.r.IntN(3) > 0
	for range r.r.IntN(6) {
		if r.brief {
			break
		}
		time.Sleep(time.Duration(r.r.Int64N(int64(20 * time.Millisecond))))
		if l.w.crashed() || !r.ok() {
			break
		}
		r.move(l)
	}
	if !r.brief && !l.w.crashed() && r.geo.M > 0 && r.r.IntN(6) == 0 && r.may(Takeovers) {
		if l = r.takeover(l); l == nil {
			return
		}
	}
	l.join()
	switch x := r.r.IntN(8); {
	case l.w.crashed() || r.brief:
		r.crash(l)
		return
	case x < 3 && r.ok():
		r.heal(l)
	case x < 5:
		l.audit()
	}
	if r.r.IntN(2) == 0 || l.w.crashed() {
		r.crash(l)
	} else {
		r.close(l)
	}
}

// allBackRefused judges that a volume could not be opened although all servers are back.
// It may be refused for ever when a server was harmed, and others that all together are
// more than M are still being rebuilt, or were out since all was healed: what the harmed one
// had of rows that those miss is gone. Then the run ends.
func (r *run) allBackRefused(err error) {
	r.mu.Lock()
	short, dirty := maps.Clone(r.harmed), maps.Clone(r.dirty)
	r.mu.Unlock()
	if len(short) > 0 {
		for _, b := range r.boxes {
			if r.meta.rebuilding(raid.ServerID(b.addr)) || dirty[b] {
				short[b] = true
			}
		}
	}
	if len(short) > r.geo.M {
		r.log("%d members are harmed or being rebuilt: it may be refused: %v", len(short), err)
		r.gone = true
		return
	}
	r.fail(Refused, "all servers are back, and the volume is refused: %v", err)
}

// refused judges that a volume could not be opened. It may be refused when, since
// everything was healed last, more than M different servers were out, lied or lost what they
// held, or when something happened meanwhile, but then only once. With all of them back
// it may not: they have it all.
func (r *run) refused(l *life, err error) {
	if errors.Is(err, errCrashed) {
		return
	}
	r.res.Refused++
	r.log("life %d is refused: %v", l.n, err)
	if excused, _ := r.excused(never - 1); !excused {
		// Servers may have fallen silent while it was opened: what it had taken in
		// could not be read any more. The next attempt has nothing to do with that.
		again, err := r.open(true)
		if err != nil {
			r.fail(Refused, "life %d is refused twice, although at most %d members were out: %v", again.n, r.geo.M, err)
			return
		}
		again.audit()
		r.close(again)
		return
	}
	r.back(slices.Clone(r.boxes)...)
	r.replace()
	again, err := r.open(true)
	if err != nil {
		r.allBackRefused(err)
		return
	}
	again.audit()
	if r.r.IntN(2) == 0 {
		r.heal(again)
	}
	r.close(again)
}

// disturb arranges for what happens while a volume is being opened.
func (r *run) disturb(l *life) {
	switch r.r.IntN(8) {
	case 0, 1: // it crashes again
		if !r.may(Recrash) {
			return
		}
		l.w.crashAt.Store(1 + r.r.Int64N(60))
	case 2: // servers fall silent, and come back when the client is about to give up
		if !r.may(Hushes) {
			return
		}
		var bs []*box
		for _, b := range r.boxes {
			// As many as there are, but not beside one that lies: of more than M nobody can tell.
			if !r.away[b] && (r.r.IntN(2) == 0 || len(r.boxes) == 1) && (r.r.IntN(2) == 0 && len(r.harmed) == 0 || r.mayAway(append(bs, b)...)) {
				bs = append(bs, b)
			}
		}
		h := &hush{pages: r.r.IntN(2) == 0, n: 1 + r.r.Int64N(30), limit: time.Duration(float64(patience) * (0.2 + 2*r.r.Float64()))}
		h.begin = func() {
			r.log("%d servers fall silent for %v", len(bs), h.limit)
			r.soil(bs...)
			for _, b := range bs {
				b.set(gateSilent)
			}
		}
		h.end = func() {
			r.log("and are back")
			for _, b := range bs {
				b.set(gateOpen)
			}
			r.soil()
		}
		l.w.hush.Store(h)
	}
}

// move is something that happens during a life.
func (r *run) move(l *life) {
	switch x := r.r.IntN(12); {
	case x < 3 && r.geo.M > 0:
		r.shuffle()
	case x == 3:
		r.back(slices.Clone(r.boxes)...)
	case x < 5:
		if r.may(Blackouts) {
			r.blackout(l)
		}
	case x == 5:
		r.harm()
	case x == 6:
		r.snap()
	case x == 7:
		r.replace()
	case x == 8:
		if r.may(Storms) {
			r.storm(l)
		}
	case x == 9:
		// To break is to be out for a moment, in which rows are written without it.
		if b := r.any(); !r.away[b] && (len(r.harmed) == 0 || r.mayAway(b)) {
			r.log("connections with %s break", b.addr)
			r.soil(b)
			b.host.Disconnect()
		}
	default:
		time.Sleep(time.Duration(r.r.Int64N(int64(300 * time.Millisecond))))
	}
}

// storm has everything read many times at once. Sometimes a server is given up and
// another one cut off meanwhile, so that pages have to be made from the others while
// members leave.
func (r *run) storm(l *life) {
	lost, out := r.any(), r.any()
	if lost == out || !r.may(Away) || !r.may(Losses) || r.geo.M < 2 || r.away[lost] || r.away[out] || !r.mayHarm(lost) {
		r.log("a storm of reads")
		l.storm(24, 0)
		return
	}
	r.log("a long storm of reads")
	for c := cell(0); int(c) < l.pages*cellsPerPage; c += 32 * cellsPerPage {
		l.write(c, min(32*cellsPerPage, l.pages*cellsPerPage-int(c)), 0, true)
	}
	l.storm(24, 150*time.Millisecond)
	time.Sleep(time.Duration(r.r.Int64N(int64(5 * time.Millisecond))))
	r.mark(lost)
	r.giveUp(lost)
	if r.mayAway(out) {
		r.cutBy(out, gateDown)
	}
}

// blackout cuts any number of servers off for a time that may be longer than the
// patience. They keep what they hold.
func (r *run) blackout(l *life) {
	m := r.aways()
	var bs []*box
	group := r.meta.group(r.r.IntN(len(r.meta.layout.Groups)))
	whole := r.r.IntN(2) == 0 // of one group, and nobody else
	for _, b := range r.boxes {
		if !r.away[b] && (whole && slices.Contains(group, b.addr) || !whole && r.r.IntN(2) == 0) {
			bs = append(bs, b)
		}
	}
	d := time.Duration(float64(patience) * []float64{0.01, 0.2, 0.7, 1.2, 2}[r.r.IntN(5)])
	r.log("%d servers are %v for %v", len(bs), m, d)
	r.res.Faults++
	r.soil(bs...)
	var cut []*gate
	for _, b := range bs {
		cut = append(cut, b.gate)
	}
	setAll(m, cut...)
	l.start(&everything, 6) // so that somebody is there to wait
	select {
	case <-time.After(d):
	case <-l.w.dead:
	}
	for _, b := range bs {
		b.set(gateOpen)
	}
	r.log("and are back")
	r.soil()
	if r.r.IntN(2) == 0 {
		time.Sleep(2 * time.Second) // they are noticed
	}
}

// takeover lets another client have the volume while the first one is cut off with
// some servers, and goes on. It returns the new one, or nil.
func (r *run) takeover(old *life) *life {
	var with []*box
	for _, b := range r.boxes {
		if !r.away[b] && r.r.IntN(3) == 0 && r.mayAway(b) {
			with = append(with, b)
			r.mu.Lock()
			r.away[b] = true
			r.mu.Unlock()
		}
	}
	names := ""
	for _, b := range with {
		names += " " + b.addr
	}
	r.log("life %d is cut off with%s", old.n, names)
	r.res.Faults++
	r.soil(with...)
	old.replaced.Store(true)
	old.w.crashAt.Store(0)
	m := []gateMode{gateSilent, gateDown}[r.r.IntN(2)]
	var cut []*gate
	for _, b := range r.boxes {
		if !slices.Contains(with, b) {
			cut = append(cut, old.w.gates[b.addr][1])
		}
	}
	setAll(m, cut...)
	if r.r.IntN(4) > 0 {
		old.meta.set(gateDown)
	} else {
		r.soil(r.boxes...) // who the first one does not reach misses what it writes until it is replaced
	}
	old.stop.Store(false)
	old.start(&styles[r.r.IntN(2)], 200)
	if r.r.IntN(2) == 0 {
		time.Sleep(time.Duration(r.r.Int64N(int64(time.Second))))
	}
	l, err := r.second(with)
	if err == nil {
		l.start(l.style, 20)
		time.Sleep(time.Duration(r.r.Int64N(int64(3 * time.Second))))
		l.join()
		l.audit()
	}
	r.log("life %d ends", old.n)
	r.crash(old)
	r.back(with...)
	if err != nil {
		r.refused(l, err)
		return nil
	}
	for _, b := range with {
		l.w.gates[b.addr][1].set(gateOpen)
	}
	if r.r.IntN(2) == 0 {
		time.Sleep(time.Second)
		l.audit()
	}
	return l
}

// second opens the volume for a client that does not reach some servers.
func (r *run) second(without []*box) (*life, error) {
	r.lives++
	r.res.Lives++
	l := &life{run: r, n: r.lives, w: newWire(r.net.Dialer(), r.r.Uint64(), 0), meta: newGate(), style: &styles[r.r.IntN(len(styles))]}
	for _, b := range r.boxes {
		gs := gates{b.gate, newGate()}
		if slices.Contains(without, b) {
			gs[1].set(gateDown)
		}
		l.w.gates[b.addr] = gs
	}
	return l, r.launch(l, true)
}

// join waits for the workers.
func (l *life) join() {
	done := make(chan struct{})
	go func() { l.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-l.w.dead:
	case <-time.After(hangs):
		l.fail(Hang, "life %d: an operation hangs", l.n)
		l.w.crash()
	}
}

// crash ends a life without a farewell.
func (r *run) crash(l *life) {
	l.stop.Store(true)
	l.w.crash()
	time.Sleep(time.Microsecond) // whoever is on the way out of the client is out
	r.log("life %d crashes after %d transfers", l.n, l.w.transfers.Load())
	r.part(l, time.Nanosecond)
}

// close ends a life in order.
func (r *run) close(l *life) {
	l.stop.Store(true)
	l.join()
	l.ending.Store(true)
	r.log("life %d is closed", l.n)
	if r.r.IntN(3) == 0 && r.may(HoleReads) {
		l.readHoles()
	}
	r.part(l, time.Minute)
}

func (r *run) part(l *life, limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- l.v.Close(ctx) }()
	select {
	case err := <-closed:
		if err != nil && !l.w.crashed() {
			r.log("closing: %v", err)
		}
	case <-time.After(hangs):
		panic(fmt.Sprintf("seed %d: Close hangs", r.seed)) // nothing can be cleaned up
	}
	l.wg.Wait()
	if !l.replaced.Load() {
		r.judge.settle()
	}
}

// heal brings everything back and waits until nothing is missing. A scrub finds
// nothing then, and nobody may fail any more.
func (r *run) heal(l *life) {
	l.w.crashAt.Store(0)
	r.back(slices.Clone(r.boxes)...)
	if l.w.crashed() || !l.healed() {
		return
	}
	harmed := len(r.harmed) > 0
	if harmed || r.r.IntN(2) == 0 {
		if !l.scrub(harmed) {
			return
		}
	}
	r.clean()
	r.log("healed")
	l.audit()
	if r.ok() {
		l.healed() // still: nothing was found missing
	}
}

// healed waits until the volume and the metadata service say that nothing is
// missing.
func (l *life) healed() bool {
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		l.replace()
		rep := l.v.Report()
		if rep.State == client.StateHealthy && len(rep.Suspect) == 0 && rep.DegradedGroups == 0 && rep.DegradedRows == 0 && rep.RebuildRows == 0 && rep.RedundancyLeft == l.geo.M && l.run.meta.whole() {
			return true
		}
		if time.Now().After(deadline) || !l.ok() {
			l.fail(Heal, "life %d: all servers are back, and it does not heal: %s", l.n, brief(&rep))
			return false
		}
	}
}

// scrub looks at everything, and has it repaired where servers lied.
func (l *life) scrub(lied bool) bool {
	for try := 0; ; try++ {
		ctx, cancel := context.WithTimeout(context.Background(), hangs)
		s, err := l.v.Scrub(ctx, client.ScrubOptions{})
		cancel()
		switch {
		case err != nil:
			l.fail(Scrub, "life %d: scrub: %v", l.n, err)
			return false
		case s.BadSlots == 0 && s.Complete():
			return true
		case !lied && s.BadSlots > 0:
			l.fail(Scrub, "life %d: a scrub finds %d slots wrong, although no server lied", l.n, s.BadSlots)
			return false
		case try == 4:
			l.fail(Scrub, "life %d: the fifth scrub still finds %d slots wrong, %d skipped, %d not repaired", l.n, s.BadSlots, s.SlotsSkipped, s.Unrepairable)
			return false
		}
		if !l.healed() {
			return false
		}
	}
}

func brief(r *client.Report) string {
	return fmt.Sprintf("%s, %d lost pages, %d degraded rows in %d groups, redundancy left %d, %d rows to rebuild, suspect %v",
		r.State, r.LostPages, r.DegradedRows, r.DegradedGroups, r.RedundancyLeft, r.RebuildRows, r.Suspect)
}
