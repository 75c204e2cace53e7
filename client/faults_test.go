package client

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dmps/raid"
	"dmps/server"
	"dmps/transport"
	"dmps/transport/mem"
)

var (
	faultSeed = flag.Uint64("fault.seed", 1, "first seed of TestFaults")
	faultRuns = flag.Int("fault.runs", 1, "how many seeds TestFaults tries for each geometry")
)

// lag is what a batch of requests takes in virtual time: without it time would
// stand still while anybody reads or writes.
const lag = 2 * time.Millisecond

// virtual runs a test in time that passes only when nobody has anything to do: a
// machine that is busy elsewhere makes no member late. Nobody in it may wait
// while holding a mutex that others want, and whoever works without a pause
// needs a network with a lag.
func virtual(f func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, f)
	}
}

// memCluster is a set of real memory servers behind a medium that can fail.
type memCluster struct {
	t       *testing.T
	net     mem.Network
	servers []*memServer
	nchunks raid.ChunkID
}

type memServer struct {
	addr string
	s    *server.Server
	host *mem.Host
	lie  atomic.Int32 // one read in so many has a bit flipped; 0: none
	mute atomic.Bool  // freeze after the next answer with headers

	empty bool // has lost its memory: no layout counts it any more
}

func newMemCluster(t *testing.T, n int) *memCluster {
	c := &memCluster{t: t}
	for i := range n {
		ms := &memServer{addr: fmt.Sprint("s", i)}
		c.servers = append(c.servers, ms)
		c.start(ms)
	}
	t.Cleanup(func() {
		for _, ms := range c.servers {
			c.stop(ms)
		}
	})
	return c
}

func (c *memCluster) start(ms *memServer) {
	s, err := server.New(server.Config{
		ID: raid.ServerID(ms.addr), Memory: 24 << 20, AllowSwappable: true, Cluster: "test", Window: 16, Log: quiet(), Peers: c.net.Dialer(),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	ms.s = s
	ms.host = c.net.Serve(ms.addr, liar{s, ms})
	ms.host.Delay(lag)
}

func (c *memCluster) stop(ms *memServer) {
	ms.host.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := ms.s.Close(ctx); err != nil {
		c.t.Error(err)
	}
}

// loseMemory is a server that is killed and started again, empty.
func (c *memCluster) loseMemory(ms *memServer) {
	c.stop(ms)
	c.start(ms)
	ms.empty = true
}

func (c *memCluster) layout(kind raid.LayoutKind, g raid.Geometry, pages uint64, groups int, rows uint32) *raid.Layout {
	l := &raid.Layout{Volume: 1, Name: "test", Kind: kind, Geometry: g, Pages: pages, ChunkSlots: rows, MinAck: g.K, Epoch: 1, FirstEpoch: true, Cluster: "test"}
	for i := range groups {
		gr := raid.Group{ID: raid.GroupID(i)}
		for m := range g.Members() {
			ms := c.servers[(i+m)%len(c.servers)]
			c.nchunks++
			gr.Members = append(gr.Members, raid.Member{Server: raid.ServerID(ms.addr), Addr: ms.addr, Incarnation: ms.s.Incarnation(), Chunk: c.nchunks})
		}
		l.Groups = append(l.Groups, gr)
	}
	return l
}

func (c *memCluster) open(l *raid.Layout) *Volume {
	c.t.Helper()
	copied := *l // the old volume keeps its own epoch
	v, err := Open(context.Background(), Config{
		Layout: &copied, Dialer: c.net.Dialer(), ArenaBytes: 1 << 20, AllowSwappable: true, Logger: quiet(),
		SuspectAfter: 30 * time.Millisecond, HardDeadline: 300 * time.Millisecond, Patience: 30 * time.Second, DialTimeout: 10 * time.Second,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { // of a test that failed: its servers are to end as well
		now, cancel := context.WithCancel(context.Background())
		cancel()
		_ = v.Close(now)
	})
	return v
}

// liar damages what a server answers, not what it holds.
type liar struct {
	transport.Backend
	ms *memServer
}

type liarSession struct {
	transport.Session
	ms *memServer
}

func (l liar) Open(ctx context.Context, h transport.Hello, stop func(error)) (transport.Session, transport.Welcome, error) {
	s, w, err := l.Backend.Open(ctx, h, stop)
	if err != nil {
		return nil, w, err
	}
	return liarSession{s, l.ms}, w, nil
}

func (l liarSession) BeginRead(io *transport.SlotIO) error {
	err := l.Session.BeginRead(io)
	if n := l.ms.lie.Load(); err == nil && n > 0 && rand.Int32N(n) == 0 && len(io.Mem) > 0 {
		io.Mem[0] = bytes.Clone(io.Mem[0])
		io.Mem[0][rand.IntN(len(io.Mem[0]))] ^= 1
	}
	return err
}

func (l liarSession) BeginReadHeaders(io *transport.SlotIO) error {
	if l.ms.mute.Swap(false) {
		l.ms.host.Stall(true)
	}
	return l.Session.BeginReadHeaders(io)
}

// faultPlan is one run of TestFaults; everything in it comes from its seed.
type faultPlan struct {
	t     *testing.T
	c     *memCluster
	g     raid.Geometry
	l     *raid.Layout
	r     *rand.Rand
	lost  int // servers that lost their memory
	pages int
}

// owner is the part of a volume that one worker has for itself.
type owner struct {
	r     *rand.Rand
	first int      // page
	want  []byte   // what was answered last
	maybe [][]byte // by page: contents that an unanswered operation may have left
}

func (o *owner) page(i int) []byte { return o.want[i*raid.PageSize:][:raid.PageSize] }

// work does random operations until stop, or until the volume is taken away.
func (o *owner) work(v *Volume, stop *atomic.Bool) error {
	size := int64(len(o.want))
	base := int64(o.first) * raid.PageSize
	for n := 0; !stop.Load(); n++ {
		off := o.r.Int64N(size)
		length := min(o.r.Int64N(1<<(6+o.r.IntN(12)))+1, size-off)
		if o.r.IntN(2) == 0 {
			off &^= raid.PageSize - 1
			length = min((length+raid.PageSize-1)&^(raid.PageSize-1), size-off)
		}
		at := base + off
		kind := o.r.IntN(9)
		if kind == 8 {
			if err := o.burst(v); err != nil {
				return err
			}
			continue
		}
		next := bytes.Clone(o.want)
		var err error
		switch kind {
		case 0, 1, 2, 3:
			b := randomBytes(o.r, int(length))
			if o.r.IntN(4) == 0 {
				b = bytes.Repeat([]byte{byte(o.r.IntN(3))}, int(length))
			}
			copy(next[off:], b)
			_, err = v.WriteAt(b, at)
		case 4:
			from, to := (off+raid.PageSize-1)&^(raid.PageSize-1), (off+length)&^(raid.PageSize-1)
			if from < to {
				clear(next[from:to])
			}
			err = v.Trim(at, length)
		case 5:
			clear(next[off : off+length])
			err = v.Zero(at, length)
		default:
			got := make([]byte, length)
			if _, err = v.ReadAt(got, at); err == nil && !bytes.Equal(got, o.want[off:off+length]) {
				return fmt.Errorf("operation %d: %d bytes at %d are not what was written", n, length, at)
			}
		}
		if err != nil {
			o.unanswered(next)
			return fmt.Errorf("operation %d (%d): %w", n, kind, err)
		}
		o.answered(next)
	}
	return nil
}

// answered makes next the truth: no older version of a page that it changes may
// be seen again.
func (o *owner) answered(next []byte) {
	for i := range o.maybe {
		if !bytes.Equal(next[i*raid.PageSize:][:raid.PageSize], o.page(i)) {
			o.maybe[i] = nil
		}
	}
	o.want = next
}

// unanswered remembers that each page may be as in next, or as it was.
func (o *owner) unanswered(next []byte) {
	for i := range len(o.want) / raid.PageSize {
		if p := next[i*raid.PageSize:][:raid.PageSize]; !bytes.Equal(p, o.page(i)) {
			o.maybe[i] = append(o.maybe[i], p...)
		}
	}
}

// burst submits many overlapping writes to two neighbouring pages at once: they
// must take effect in the order in which they were submitted.
func (o *owner) burst(v *Volume) error {
	p := o.r.IntN(len(o.want)/raid.PageSize - 1)
	states := [][]byte{bytes.Clone(o.want)}
	done := make(chan *Op, 16)
	n := 2 + o.r.IntN(10)
	for range n {
		off := int64(p)*raid.PageSize + o.r.Int64N(2*raid.PageSize)
		length := 1 + o.r.Int64N(int64(p+2)*raid.PageSize-off)
		if o.r.IntN(4) == 0 {
			off, length = int64(p)*raid.PageSize, raid.PageSize
		}
		b := randomBytes(o.r, int(length))
		op := &Op{Kind: OpWrite, Off: int64(o.first)*raid.PageSize + off, Len: length, Done: func(op *Op) { done <- op }}
		_, pages := span(op)
		bufs, err := v.Alloc(context.Background(), pages, nil)
		if err != nil {
			op.Err = err
			done <- op
			continue
		}
		op.Bufs = bufs
		at, skip := 0, int(off&(raid.PageSize-1))
		for _, buf := range bufs {
			at += copy(buf.Page[skip:], b[at:])
			skip = 0
		}
		next := bytes.Clone(states[len(states)-1])
		copy(next[off:], b)
		states = append(states, next)
		v.Submit(op)
		if o.r.IntN(3) == 0 {
			v.Kick()
		}
	}
	v.Kick()
	var err error
	for range n {
		if op := <-done; op.Err != nil {
			err = op.Err
		}
	}
	if err != nil {
		for _, s := range states {
			o.unanswered(s)
		}
		return err
	}
	o.answered(states[len(states)-1])
	return nil
}

// settle reads everything and compares. An unanswered operation may be there or
// not, and until the page is written again that may differ after a recovery that
// reaches other members (raid.Recovery says why): that much is not promised.
func (o *owner) settle(v *Volume) error {
	got := make([]byte, len(o.want))
	if _, err := v.ReadAt(got, int64(o.first)*raid.PageSize); err != nil {
		return err
	}
pages:
	for i := range o.maybe {
		p := got[i*raid.PageSize:][:raid.PageSize]
		if bytes.Equal(p, o.page(i)) {
			continue
		}
		for m := o.maybe[i]; len(m) > 0; m = m[raid.PageSize:] {
			if bytes.Equal(p, m[:raid.PageSize]) {
				o.maybe[i] = append(o.maybe[i], o.page(i)...)
				copy(o.page(i), p)
				continue pages
			}
		}
		return fmt.Errorf("page %d is none of the %d versions that it may be", o.first+i, 1+len(o.maybe[i])/raid.PageSize)
	}
	return nil
}

// TestFaults: workers write, trim and read while servers freeze, are slow, lose
// replies, lie, are cut off, or lose their memory, never more of these than the
// redundancy bears; the client itself is replaced by another one in the middle
// of everything. Every answered operation counts, everything is answered,
// everything heals.
func TestFaults(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 1, M: 1}, {K: 1, M: 2}, {K: 2, M: 1}, {K: 4, M: 2}} {
		for seed := *faultSeed; seed < *faultSeed+uint64(*faultRuns); seed++ {
			t.Run(fmt.Sprintf("%v/seed=%d", g, seed), func(t *testing.T) {
				t.Parallel()
				t.Logf("repeat with -run TestFaults -fault.seed=%d", seed)
				synctest.Test(t, func(t *testing.T) {
					p := &faultPlan{t: t, g: g, pages: 512, r: rand.New(rand.NewPCG(seed, uint64(g.K<<8|g.M)))}
					p.c = newMemCluster(t, g.Members()+1)
					p.l = p.c.layout(raid.LayoutLog, g, uint64(p.pages), g.Members()+1, uint32(p.pages*3/2/(g.Members()+1)/g.K+70))
					p.run()
				})
			})
		}
	}
}

func (p *faultPlan) run() {
	const workers = 6
	var owners []*owner
	per := p.pages / workers
	for w := range workers {
		owners = append(owners, &owner{
			r: rand.New(rand.NewPCG(p.r.Uint64(), 1)), first: w * per,
			want: make([]byte, per*raid.PageSize), maybe: make([][]byte, per),
		})
	}
	v := p.c.open(p.l)
	for life := range 3 {
		var stop, crashed atomic.Bool
		var wg sync.WaitGroup
		for w, o := range owners {
			wg.Go(func() {
				if err := o.work(v, &stop); err != nil && (!crashed.Load() || !errors.Is(err, ErrFenced)) {
					p.t.Errorf("worker %d in life %d: %v", w, life, err)
				}
			})
		}
		p.torment(v)
		old := v
		if life < 2 {
			// Another client takes over while this one writes.
			crashed.Store(true)
			p.l.Epoch++
			p.l.FirstEpoch = false
			v = p.c.open(p.l)
		} else {
			stop.Store(true)
		}
		p.join(&wg, old)
		if life < 2 {
			p.close(old)
		}
		for w, o := range owners {
			if err := o.settle(v); err != nil {
				p.t.Fatalf("worker %d after life %d: %v\n%+v", w, life, err, v.Report())
			}
		}
		p.heal(v)
		if p.t.Failed() {
			p.close(v)
			return
		}
		v = p.reopen(v, owners)
		if p.t.Failed() {
			p.close(v)
			return
		}
	}
	if err := v.check(); err != nil {
		p.t.Error(err)
	}
	p.close(v)
}

func (p *faultPlan) join(wg *sync.WaitGroup, v *Volume) {
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		a := v.lock()
		m := &v.mu
		state := fmt.Sprintf("ops %d queue %d trims %d blocked %d held %d edges %d active %d flying %d cleaners %d pending %d stalled %v mergers %v rescues %v starved %d",
			m.ops, m.queue.n, m.trims.n, m.blocked.n, m.held.n, m.heldEdges.n, len(m.active), m.flying, m.cleaners, m.pending.n, m.stalled != nil, m.mergers != nil, m.rescues.head != nil, m.starved)
		v.unlock(a)
		panic("an operation hangs: " + state)
	}
}

func (p *faultPlan) close(v *Volume) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := v.Close(ctx); err != nil {
		p.t.Error(err)
	}
}

// torment breaks servers, and mends them before it returns.
func (p *faultPlan) torment(v *Volume) {
	for range 8 {
		first := p.r.IntN(len(p.c.servers))
		var broken []*memServer
		for i := range 1 + p.r.IntN(max(1, p.g.M)) {
			broken = append(broken, p.c.servers[(first+i)%len(p.c.servers)])
		}
		kind := p.r.IntN(8)
		if kind >= 6 && (p.lost == p.g.M || !p.healthy(v)) {
			kind = p.r.IntN(6) // nothing left to lose
		}
		wait := time.Duration(5+p.r.IntN(60)) * time.Millisecond
		for _, ms := range broken {
			switch kind {
			case 0, 1:
				ms.host.Stall(true)
			case 2:
				ms.host.Delay(lag + time.Duration(1+p.r.IntN(8))*time.Millisecond)
			case 3:
				ms.host.DropReplies(1 + p.r.IntN(3))
			case 4:
				ms.host.Disconnect()
			case 5:
				ms.host.Down(true)
			case 6:
				ms.lie.Store(1 + p.r.Int32N(50))
			}
			if kind == 6 {
				break // rows may miss one member for it, not two
			}
			if kind == 7 {
				p.c.loseMemory(ms)
				p.lost++
				break
			}
		}
		time.Sleep(wait)
		for _, ms := range broken {
			ms.host.Stall(false)
			ms.host.Delay(lag)
			ms.host.DropReplies(0)
			ms.host.Down(false)
			ms.lie.Store(0)
		}
	}
}

// reopen lets another client take over from one that has healed everything, while
// as many further servers as the redundancy bears are out. What was written while
// others were out, and is dead since, must not stand in its way.
func (p *faultPlan) reopen(v *Volume, owners []*owner) *Volume {
	out := p.g.M - p.lost
	if out == 0 {
		return v
	}
	var gone []*memServer
	for _, i := range p.r.Perm(len(p.c.servers)) {
		if ms := p.c.servers[i]; !ms.empty && len(gone) < out {
			gone = append(gone, ms)
		}
	}
	for _, ms := range gone {
		ms.host.Down(true)
	}
	p.l.Epoch++
	p.l.FirstEpoch = false
	again := p.c.open(p.l)
	for w, o := range owners {
		if err := o.settle(again); err != nil {
			p.t.Errorf("worker %d, with %d more servers out: %v\n%+v", w, out, err, again.Report())
		}
	}
	p.close(v)
	for _, ms := range gone {
		ms.host.Down(false)
	}
	p.heal(again)
	return again
}

// healthy reports whether nothing of the faults is left but servers that lost
// their memory.
func (p *faultPlan) healthy(v *Volume) bool {
	r := v.Report()
	return len(r.Suspect) == 0 && r.State != StateFailed && r.RedundancyLeft >= p.g.M-p.lost && (p.lost > 0 || r.State == StateHealthy) && p.inView(v)
}

// inView reports whether all members that are there are known to have every row: a
// client that reaches no others goes by that.
func (p *faultPlan) inView(v *Volume) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for g := range v.layout.Groups {
		for c := range raid.Col(v.geo.Members()) {
			if m := v.member(raid.GroupID(g), c); m.peer != nil && m.peer.state == peerUp && !v.mu.log.InView(raid.GroupID(g), c) {
				return false
			}
		}
	}
	return true
}

func (p *faultPlan) heal(v *Volume) {
	deadline := time.Now().Add(10 * time.Second)
	for !p.healthy(v) {
		if time.Now().After(deadline) {
			p.t.Errorf("not healed: %+v", v.Report())
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}
