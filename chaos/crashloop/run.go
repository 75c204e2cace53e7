package crashloop

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"dmps/client"
	"dmps/raid"
	"dmps/transport/mem"
)

// patience is that of the clients. Time is virtual: it costs nothing but what the
// client's watch does meanwhile. A server gives up reading from a silent one after
// 7 s, which holds rows up: a patience below that would be over for no reason.
const patience = 10 * time.Second

// Kind is a kind of what can be wrong.
type Kind string

const (
	Setup   Kind = "setup"   // the run could not be made
	Stale   Kind = "stale"   // a read returned what is older than what was answered, or read
	Foreign Kind = "foreign" // a read returned what nobody wrote there
	Torn    Kind = "torn"    // a page was a mixture
	Error   Kind = "error"   // an op failed although at most M members were out
	Early   Kind = "early"   // an op failed before its patience was over, although all that was out came back with what it held
	Passed  Kind = "passed"  // a read failed although its page had been written anew, and could be read
	Refused Kind = "refused" // a volume was not opened although at most M members were out, or all were back
	Heal    Kind = "heal"    // all are back, and something is missing
	Scrub   Kind = "scrub"   // a scrub found what it should not, or did not repair
	Hang    Kind = "hang"    // an op has no end
	Crash   Kind = "crash"   // the client panicked
)

// Move is a kind of what happens to clients and servers.
type Move string

const (
	Away      Move = "away"     // up to M servers are out, and others later
	Blackouts Move = "blackout" // any number is, for a while
	Refusing  Move = "refusing" // those out refuse connections
	Hushes    Move = "hush"     // servers fall silent while a volume is opened
	Recrash   Move = "recrash"  // the client crashes while a volume is opened
	Takeovers Move = "takeover" // another client takes the volume over
	Storms    Move = "storm"    // everything is read many times at once
	HoleReads Move = "holes"    // what is zero is read while the volume is closed
	Losses    Move = "loss"     // servers come back empty, or are given up
	Zeroed    Move = "zeroed"   // memory, or its headers, turns to zeros
	Swapped   Move = "swapped"  // slots change places
	Flipped   Move = "flipped"  // bytes change
	Rewound   Move = "rewound"  // memory is as it was before
)

// Config is what a run does besides what its seed says.
type Config struct {
	Geometry raid.Geometry
	Lives    int    // most clients, one after another; 0: 8
	Skip     []Kind // what is not judged
	Without  []Move // what does not happen

	// Note takes a line for all that happens, in order; nil: nobody does. It is
	// called by one goroutine at a time.
	Note func(line string)
}

// Result is how a run went.
type Result struct {
	Seed     uint64
	Geometry raid.Geometry
	Servers  int
	Lives    int // clients that were opened, or tried
	Refused  int // of them: that were refused, as they may be
	Writes   int // and trims and zeroings
	Failed   int // of them: with an error, as they may
	Reads    int // that were judged
	Errors   int // reads that ended with an error, as they may
	Faults   int
	Wrong    []string // empty: all was as promised
}

// String is one line.
func (r *Result) String() string {
	end := "ok"
	if len(r.Wrong) > 0 {
		end = "WRONG: " + strings.SplitN(r.Wrong[0], "\n", 2)[0]
	}
	return fmt.Sprintf("seed %d %v on %d servers: %d lives, %d refused, %d writes, %d failed, %d reads, %d errors, %d faults: %s",
		r.Seed, r.Geometry, r.Servers, r.Lives, r.Refused, r.Writes, r.Failed, r.Reads, r.Errors, r.Faults, end)
}

// run is what Run is about. But for what mu guards it is the director's.
type run struct {
	seed  uint64
	cfg   Config
	geo   raid.Geometry
	r     *rand.Rand
	net   mem.Network
	boxes []*box
	meta  *metadata
	judge *judge
	pages int
	began time.Time
	res   Result

	away   map[*box]bool // cannot be reached, by anybody or by the newest client
	harmed map[*box]bool // lie or lost what they held, and are not healed
	lives  int
	gone   bool // too much is: no client can open the volume again
	brief  bool // the last client has put zeros over what failed before, and crashed at once

	mu     sync.Mutex
	dirty  map[*box]bool // were away or harmed since everything was healed last
	over   tick          // when more than M were dirty last; never: they are
	change tick          // when a server went or came last
	failed []int         // pages of which a write failed
	wrong  []string
}

// loaded is when the program started, by the clock outside of any bubble.
var loaded = time.Now()

// catchUp makes a bubble's clock, which begins in the year 2000, later than the start of the
// program: the client counts time from there, and from 0.
func catchUp() { time.Sleep(time.Until(loaded) + time.Hour) }

// Run does what a seed says to a volume and the clients that have it, one after
// another. It must be called in a bubble of testing/synctest.
//
// The same seed makes the same decisions, but not the same run: goroutines of the
// client run as the scheduler likes.
func Run(seed uint64, cfg Config) Result {
	if cfg.Lives == 0 {
		cfg.Lives = 8
	}
	catchUp()
	r := &run{
		seed: seed, cfg: cfg, geo: cfg.Geometry, r: rand.New(rand.NewPCG(seed, 1)), began: time.Now(),
		away: map[*box]bool{}, harmed: map[*box]bool{}, dirty: map[*box]bool{},
	}
	r.res.Seed, r.res.Geometry = seed, cfg.Geometry
	if err := r.setUp(); err != nil {
		r.fail(Setup, "%v", err)
	} else {
		r.all()
	}
	for _, b := range r.boxes {
		if err := b.stop(); err != nil {
			r.fail(Setup, "%v", err)
		}
	}
	if r.judge != nil {
		c := &r.judge.count
		r.res.Writes, r.res.Failed, r.res.Reads, r.res.Errors = c.writes, c.failed, c.reads, c.readErrors
	}
	r.res.Servers, r.res.Wrong = len(r.boxes), r.wrong
	return r.res
}

// setUp starts servers and lays the volume out: mostly on exactly K+M servers, with
// few rows, so that the cleaner has to work.
func (r *run) setUp() error {
	w := r.geo.Members()
	n := w + []int{0, 0, 0, 1, 2}[r.r.IntN(5)]
	if r.r.IntN(4) == 0 && w <= 3 {
		n = 2 * w
	}
	r.pages = 16 + r.r.IntN(100)
	if r.r.IntN(4) == 0 {
		r.pages *= 3
	}
	groups := 1 + r.r.IntN(3)
	rows := (r.pages*[]int{125, 150, 200}[r.r.IntN(3)]/100+r.geo.K*groups-1)/(r.geo.K*groups) + 12
	chunk := int64(rows)*(raid.PageSize+raid.MaxHeaderSize) + raid.PageSize
	for i := range n {
		b, err := newBox(&r.net, fmt.Sprint("s", i), 5*int64(groups)*chunk)
		if err != nil {
			return err
		}
		r.boxes = append(r.boxes, b)
	}
	for _, b := range r.boxes {
		for _, o := range r.boxes {
			b.roads[o.addr] = gates{b.gate, o.gate}
		}
	}
	l := raid.Layout{
		Volume: volumeID, Name: "crashloop", Kind: raid.LayoutLog, Geometry: r.geo, Pages: uint64(r.pages), ChunkSlots: uint32(rows),
		MinAck: r.geo.K, Version: 1, Cluster: clusterID,
	}
	r.meta = &metadata{}
	for i := range groups {
		g := raid.Group{ID: raid.GroupID(i)}
		for c := range w {
			b := r.boxes[(i*(n-w)+i+c)%n]
			r.meta.chunk++
			g.Members = append(g.Members, raid.Member{Server: raid.ServerID(b.addr), Addr: b.addr, Incarnation: b.s.Incarnation(), Chunk: r.meta.chunk})
		}
		l.Groups = append(l.Groups, g)
	}
	r.meta.layout = l
	r.judge = newJudge(r.pages)
	r.log("%v on %d servers: %d pages in %d groups of %d rows", r.geo, n, r.pages, groups, rows)
	return nil
}

func (r *run) log(format string, a ...any) {
	if r.cfg.Note == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cfg.Note(fmt.Sprintf("%12v %s", time.Since(r.began).Round(time.Microsecond), fmt.Sprintf(format, a...)))
}

// Write takes a line of a client's log.
func (r *run) Write(line []byte) (int, error) {
	r.log("     %s", strings.TrimSpace(string(line)))
	return len(line), nil
}

// logger puts what clients have to say into the trace.
func (r *run) logger(life int) *slog.Logger {
	plain := func(_ []string, a slog.Attr) slog.Attr {
		switch a.Key {
		case slog.TimeKey, slog.LevelKey, "volume", "epoch":
			return slog.Attr{}
		}
		return a
	}
	return slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{ReplaceAttr: plain, Level: slog.LevelInfo})).With("life", life)
}

// fail notes something that is wrong. The run ends soon after.
func (r *run) fail(k Kind, format string, a ...any) {
	s := fmt.Sprintf(format, a...)
	if slices.Contains(r.cfg.Skip, k) {
		r.log("not judged: %s", s)
		return
	}
	s = string(k) + ": " + s
	r.log("WRONG: %s", s)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.wrong) < 8 {
		r.wrong = append(r.wrong, s)
	}
}

func (r *run) ok() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.wrong) == 0
}

// soil notes servers that are out or harmed.
func (r *run) soil(bs ...*box) {
	now := r.judge.time()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.change = now
	for _, b := range bs {
		r.dirty[b] = true
	}
	if len(r.dirty) > r.geo.M {
		r.over = never
	}
}

// clean notes that everything is healed.
func (r *run) clean() {
	now := r.judge.time()
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.dirty)
	clear(r.harmed)
	if r.over == never {
		r.over = now
	}
}

// excused reports whether an op that began at a tick may have failed because too
// many servers were out, and whether some of those out have lost something.
func (r *run) excused(began tick) (yes, harm bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return began <= r.over && r.over != 0, len(r.harmed) > 0
}

func (r *run) changed() tick {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.change
}

// mayAway reports whether servers may be cut off besides those that are: never more
// than M are out or harmed at a time, and while some are harmed, no others
// may miss what was written.
func (r *run) mayAway(more ...*box) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[*box]bool{}
	for _, b := range more {
		out[b] = true
	}
	for _, l := range []map[*box]bool{r.away, r.harmed} {
		for x := range l {
			out[x] = true
		}
	}
	if len(r.harmed) > 0 {
		for x := range r.dirty {
			out[x] = true
		}
	}
	return len(out) <= r.geo.M
}

// mayHarm likewise, for what does not mend itself.
func (r *run) mayHarm(b *box) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.dirty)
	if !r.dirty[b] {
		n++
	}
	return n <= r.geo.M
}

// may reports whether a kind of move happens at all.
func (r *run) may(m Move) bool { return !slices.Contains(r.cfg.Without, m) }

// aways chooses how servers are out.
func (r *run) aways() gateMode {
	m := []gateMode{gateSilent, gateSilent, gateDown, gateDown, gateRefuse}[r.r.IntN(5)]
	if m == gateRefuse && !r.may(Refusing) {
		return gateDown
	}
	return m
}

// cut cuts a server off.
func (r *run) cut(b *box) { r.cutBy(b, r.aways()) }

func (r *run) cutBy(b *box, m gateMode) {
	r.log("%s is %v", b.addr, m)
	r.res.Faults++
	r.mu.Lock()
	r.away[b] = true
	r.mu.Unlock()
	r.soil(b)
	b.set(m)
}

// back lets servers be reached again.
func (r *run) back(bs ...*box) {
	for _, b := range bs {
		if b.mode() != gateOpen {
			r.log("%s is back", b.addr)
		}
		b.set(gateOpen)
		r.mu.Lock()
		delete(r.away, b)
		r.mu.Unlock()
	}
	r.soil()
}

// shuffle chooses which servers are away: others than before, fewer or more.
func (r *run) shuffle() {
	for b := range r.away {
		if r.r.IntN(3) > 0 {
			r.back(b)
		}
	}
	if r.geo.M == 0 || !r.brief && r.r.IntN(4) == 0 || !r.may(Away) {
		return
	}
	n := r.r.IntN(r.geo.M + 1)
	if r.brief {
		n = r.geo.M
	}
	for range n {
		if b := r.any(); r.mayAway(b) && !r.away[b] {
			r.cut(b)
		}
	}
}

func (r *run) any() *box { return r.boxes[r.r.IntN(len(r.boxes))] }

// harm makes a server lie, or lose what it holds.
func (r *run) harm() {
	b := r.any()
	if !r.mayHarm(b) || r.away[b] {
		return
	}
	chunks := r.meta.chunks(raid.ServerID(b.addr))
	how := r.r.IntN(8)
	l := lie(r.r.IntN(int(lies)))
	if len(chunks) == 0 || how < 2 && !r.may(Losses) || how >= 2 && !r.may(l.move()) {
		return
	}
	r.mark(b)
	switch how {
	case 0:
		r.log("%s comes back empty", b.addr)
		if err := b.restart(); err != nil {
			r.fail(Setup, "%v", err)
		}
		if r.r.IntN(2) == 0 {
			r.log("%s is lost", b.addr)
			r.meta.lose(raid.ServerID(b.addr))
		}
	case 1:
		r.giveUp(b)
	default:
		for _, c := range chunks {
			if b.tell(l, c, r.r) {
				r.log("%s, chunk %d: %v", b.addr, c, l)
			}
		}
	}
}

// mark notes that a server is harmed.
func (r *run) mark(b *box) {
	r.res.Faults++
	r.mu.Lock()
	r.harmed[b] = true
	r.mu.Unlock()
	r.soil(b)
}

// giveUp has the metadata service lose a server that clients may reach.
func (r *run) giveUp(b *box) {
	r.log("%s is given up", b.addr)
	r.meta.lose(raid.ServerID(b.addr))
}

// snap remembers what some server holds.
func (r *run) snap() {
	b := r.any()
	for _, c := range r.meta.chunks(raid.ServerID(b.addr)) {
		b.snap(c)
	}
}

// replace has the metadata service find new places for what is lost. Servers that
// came back empty without its knowledge are known by then.
func (r *run) replace() {
	var up []*box
	for _, b := range r.boxes {
		if !r.away[b] {
			up = append(up, b)
		}
		r.meta.heard(b)
	}
	r.r.Shuffle(len(up), func(i, j int) { up[i], up[j] = up[j], up[i] })
	r.meta.replace(up)
}

// all is the run: some lives, and at the end everything must be there again.
func (r *run) all() {
	for r.lives < r.cfg.Lives && r.ok() && !r.gone {
		r.one()
		if r.ok() && (r.brief || r.r.IntN(3) > 0) {
			r.between()
		}
	}
	if !r.ok() || r.gone {
		return
	}
	r.log("the end: all come back")
	r.back(slices.Clone(r.boxes)...)
	l, err := r.open(true)
	if err != nil {
		r.allBackRefused(err)
		return
	}
	r.heal(l)
	r.close(l)
}

// between is what happens while no client is there.
func (r *run) between() {
	r.shuffle()
	if r.r.IntN(4) == 0 {
		r.harm()
	}
	if r.r.IntN(3) == 0 {
		r.snap()
	}
	if r.r.IntN(2) == 0 {
		r.replace()
	}
}

// open is how a life begins. calm: nothing happens meanwhile.
func (r *run) open(calm bool) (*life, error) {
	r.lives++
	r.res.Lives++
	slow := []time.Duration{0, 300 * time.Microsecond, 3 * time.Millisecond}[r.r.IntN(3)]
	l := &life{run: r, n: r.lives, w: newWire(r.net.Dialer(), r.r.Uint64(), slow), meta: newGate(), style: &styles[r.r.IntN(len(styles))]}
	for _, b := range r.boxes {
		l.w.gates[b.addr] = gates{b.gate, newGate()}
	}
	return l, r.launch(l, calm)
}

// launch opens the volume for a life that is made ready.
func (r *run) launch(l *life, calm bool) error {
	layout := r.meta.attach()
	l.epoch = layout.Epoch
	r.log("life %d, epoch %d, %s, slow by %v", l.n, l.epoch, l.style.name, l.w.slow)
	ctx, cancel := contextOf(l.w)
	defer cancel()
	if !calm {
		r.disturb(l)
	}
	defer l.w.quiet()
	v, err := client.Open(ctx, client.Config{
		Layout: layout, Lease: client.Lease{TTL: leaseTTL, Renew: leaseRenew}, Meta: &holder{r.meta, l.w, l.meta}, Dialer: l.w,
		ArenaBytes: []int64{1 << 20, 1 << 20, 1 << 20, 4 << 20, 8 << 20}[r.r.IntN(5)], MaxOp: 1<<20/raid.PageSize + 1, AllowSwappable: true, Logger: r.logger(l.n),
		HardDeadline: time.Second, Patience: patience, DialTimeout: 500 * time.Millisecond,
	})
	l.v = v
	if l.w.crashed() {
		r.log("life %d crashes while it opens", l.n)
		if err == nil {
			r.crash(l)
		}
		return errCrashed
	}
	return err
}

// errCrashed: the client lost its power before the volume was open.
var errCrashed = errors.New("crashed")
