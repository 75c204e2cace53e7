//go:build fabric && cgo

package fabric_test

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dmps/chaos/paper"
	"dmps/raid"
	"dmps/transport"
	"dmps/transport/fabric"
	"dmps/transport/tcp"
)

var (
	figureDir    = flag.String("figure", "", "TestFigure: measure all carriers by size, and write transfer.json to this `folder`")
	figureRounds = flag.Int("figure-rounds", 5, "TestFigure: how often the carriers take turns")
	figureSlice  = flag.Duration("figure-slice", 50*time.Millisecond, "TestFigure: how long one size is measured at a time")
)

// mover is a carrier that is ready to transfer.
type mover interface {
	// fit is how many bytes one transfer moves when asked for size, or 0: the
	// carrier has nothing like it.
	fit(op transport.Op, size int) int
	start(op transport.Op, size int) error // never blocks; up to 32, and 4 MiB
	kick()
	end() (n int, err error) // waits for the ends of n transfers, at least one
	cpu() time.Duration      // that the other process has used
}

// figureSizes are those on the horizontal axis, in bytes.
func figureSizes() []int {
	sizes := []int{4, 16, 64, 256, 1 << 10}
	for s := 4 << 10; s <= 1<<20; s *= 2 {
		sizes = append(sizes, s)
	}
	return sizes
}

var carriers = map[string]func(t *testing.T) mover{
	paper.CarrierSockets: newSockets,
	paper.CarrierTCP: func(t *testing.T) mover {
		return newRequests(t, "tcp", new(tcp.Dialer), "tcp")
	},
	paper.CarrierRawTCP: func(t *testing.T) mover { return newRaw(t, "tcp") },
	paper.CarrierFabTCP: func(t *testing.T) mover { return newRequests(t, "tcp", oneSided(), "fabric+tcp") },
	paper.CarrierRawShm: func(t *testing.T) mover { return newRaw(t, "shm") },
	paper.CarrierFabShm: func(t *testing.T) mover { return newRequests(t, "shm", oneSided(), "fabric+shm") },
}

func oneSided() transport.Dialer { return &fabric.Dialer{Strict: true, Eager: none} }

// Without -figure the carriers are tried for a moment, so that the program keeps
// working; nothing is kept then.
func TestFigure(t *testing.T) {
	rounds, slice, figure := *figureRounds, *figureSlice, figureSizes()
	if *figureDir == "" {
		rounds, slice, figure = 1, time.Millisecond, []int{4, 256, 4 << 10, 128 << 10, 1 << 20}
	}
	d := paper.Data[paper.TransferRow]{Figure: paper.FigureTransfer, Started: time.Now().UTC(), Machine: paper.ThisMachine()}
	d.Host, d.Load[0] = d.Machine, paper.LoadAverage()
	for round := range rounds {
		for _, name := range paper.Carriers {
			t.Run(fmt.Sprintf("%d/%s", round, name), func(t *testing.T) {
				m := carriers[name](t)
				for _, size := range figure {
					for op := transport.OpWrite; op > 0; op-- { // then OpRead
						n, opName := m.fit(op, size), [...]string{transport.OpRead: paper.Read, transport.OpWrite: paper.Write}[op]
						if n == 0 {
							continue
						}
						for _, way := range []string{paper.OneByOne, paper.Several} {
							row := paper.TransferRow{Carrier: name, Op: opName, Way: way, Asked: size, Size: n, Round: round}
							measureTransfers(t, m, op, &row, slice)
							d.Rows = append(d.Rows, row)
						}
					}
				}
			})
		}
	}
	if t.Failed() || *figureDir == "" {
		return
	}
	d.Load[1], d.Took = paper.LoadAverage(), time.Since(d.Started).Seconds()
	if err := d.Save(*figureDir); err != nil {
		t.Fatal(err)
	}
}

// measureTransfers fills the row with what happens in about d.
func measureTransfers(t *testing.T, m mover, op transport.Op, row *paper.TransferRow, d time.Duration) {
	depth := 1
	if row.Way == paper.Several {
		depth = min(32, fabric.RawBytes/row.Size)
	}
	one := make([]time.Duration, 0, 1<<16)
	var began time.Time
	var cpu time.Duration
	flight, ended := 0, 0
	from := time.Now()
	warm := from.Add(d / 10)
	for {
		now := time.Now()
		if began.IsZero() && !now.Before(warm) && ended > 0 {
			// What is in flight counts; as much is in flight at the end, which does not.
			cpu, began, ended, one = m.cpu(), time.Now(), 0, one[:0]
			now = began
		}
		if !began.IsZero() && now.Sub(began) >= d && ended >= 3 {
			break
		}
		for ; flight < depth; flight++ {
			if err := m.start(op, row.Size); err != nil {
				t.Fatal(err)
			}
		}
		m.kick()
		n, err := m.end()
		if err != nil {
			t.Fatal(err)
		}
		flight, ended = flight-n, ended+n
		if depth == 1 {
			one = append(one, time.Since(now))
		}
	}
	took := time.Since(began)
	row.Count, row.CPU = ended, float64(m.cpu()-cpu)/1e3/float64(ended)
	row.Moved = paper.Moved{Bytes: int64(row.Size) * int64(ended), Seconds: took.Seconds()}
	for flight > 0 {
		n, err := m.end()
		if err != nil {
			t.Fatal(err)
		}
		flight -= n
	}
	if depth == 1 {
		slices.Sort(one)
		row.P50, row.Min = float64(one[len(one)/2])/1e3, float64(one[0])/1e3
	}
}

// rawMover is libfabric alone.
type rawMover struct {
	*fabric.Raw
	c *child
	t *testing.T
}

func newRaw(t *testing.T, provider string) mover {
	r, a, err := fabric.NewRaw(provider, false)
	if err != nil {
		t.Skipf("no provider %s: %v", provider, err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	c := startChild(t, childSpec{Provider: provider, Raw: &a})
	if err := r.Connect(c.raw); err != nil {
		t.Fatal(err)
	}
	return &rawMover{r, c, t}
}

func (m *rawMover) fit(_ transport.Op, size int) int      { return size }
func (m *rawMover) start(op transport.Op, size int) error { return m.Start(op, size) }
func (m *rawMover) kick()                                 {}
func (m *rawMover) cpu() time.Duration                    { return m.c.cpu(m.t) }
func (m *rawMover) end() (int, error) {
	n := m.InFlight()
	err := m.End()
	return n - m.InFlight(), err
}

// requestMover is a session of dmps. All pages are the same, with the same header,
// here and at the server, so that every size can use the same memory.
type requestMover struct {
	t            *testing.T
	c            *child
	conn         transport.Conn
	pages, heads []byte // by slot
	done         chan *transfer
	ready        map[moverKey][]*transfer
}

type moverKey struct {
	op   transport.Op
	size int
}

// transfer is what the figure calls one: requests that are submitted together.
type transfer struct {
	key  moverKey
	reqs []*transport.Request
	left int   // without an end; of the session's goroutine
	err  error // likewise
}

const figureSlots = fabric.RawBytes / transport.PageSize

func newRequests(t *testing.T, provider string, d transport.Dialer, scheme string) mover {
	mem, err := unix.Mmap(-1, 0, figureSlots*(transport.PageSize+raid.HeaderSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(d.Close(), unix.Munmap(mem)); err != nil {
			t.Error(err)
		}
	})
	m := &requestMover{
		t: t, c: startChild(t, childSpec{Provider: provider, Window: 64, Memory: 64 << 20}),
		pages: mem[:fabric.RawBytes], heads: mem[fabric.RawBytes:], done: make(chan *transfer, 64), ready: make(map[moverKey][]*transfer),
	}
	for i := range m.pages {
		m.pages[i] = byte(i % transport.PageSize * 7 >> 3)
	}
	h := raid.Header{Kind: raid.KindPage, Seq: 1, CRC: raid.Checksum(m.pages[:transport.PageSize])}
	for i := range figureSlots {
		h.Put(m.heads[i*raid.HeaderSize:][:raid.HeaderSize], nil)
	}
	if err := d.Register(mem); err != nil {
		t.Fatal(err)
	}
	_, at, _ := strings.Cut(m.c.addr, "://")
	if m.conn, _, err = d.Dial(t.Context(), scheme+"://"+at, hello(1), nil); err != nil {
		t.Fatal(err)
	}
	if err := m.conn.OpenChunk(t.Context(), chunk, transport.ChunkSpec{Slots: figureSlots, HeaderBytes: raid.HeaderSize}); err != nil {
		t.Fatal(err)
	}
	// What is read later must be what is written now: all slots of a chunk.
	row := paper.TransferRow{Way: paper.Several, Size: 128 << 10}
	measureTransfers(t, m, transport.OpWrite, &row, 10*time.Millisecond)
	return m
}

// fit: below a page there are headers alone, whole ones, in one request.
func (m *requestMover) fit(op transport.Op, size int) int {
	switch n := size / raid.HeaderSize; {
	case size >= transport.PageSize:
		return size
	case size == 4:
		return raid.HeaderSize
	case n < 2 || op == transport.OpWrite && n > transport.MaxSegs:
		return 0
	default:
		return n * raid.HeaderSize
	}
}

// transfer makes one of the slots from slot on.
func (m *requestMover) transfer(k moverKey, slot int) *transfer {
	x := &transfer{key: k}
	ended := func(q *transport.Request) {
		if q.Err != nil {
			x.err = q.Err
		}
		if x.left--; x.left == 0 {
			m.done <- x
		}
	}
	if k.op == transport.OpRead && k.size < transport.PageSize {
		x.reqs = []*transport.Request{{Op: transport.OpReadHeaders, Chunk: chunk, Count: k.size / raid.HeaderSize, Done: ended,
			Segs: []transport.Seg{{Index: uint32(slot), Header: m.heads[slot*raid.HeaderSize:][:k.size]}}}}
		return x
	}
	for range slotsOf(k.size) {
		if n := len(x.reqs); n == 0 || len(x.reqs[n-1].Segs) == transport.MaxSegs {
			x.reqs = append(x.reqs, &transport.Request{Op: k.op, Chunk: chunk, Done: ended})
		}
		g := transport.Seg{Index: uint32(slot), Header: m.heads[slot*raid.HeaderSize:][:raid.HeaderSize]}
		if k.size >= transport.PageSize {
			g.Page = m.pages[slot*transport.PageSize:][:transport.PageSize]
		}
		q := x.reqs[len(x.reqs)-1]
		q.Segs = append(q.Segs, g)
		slot++
	}
	return x
}

func slotsOf(size int) int {
	if size < transport.PageSize {
		return size / raid.HeaderSize
	}
	return size / transport.PageSize
}

func (m *requestMover) start(op transport.Op, size int) error {
	k := moverKey{op, size}
	if m.ready[k] == nil {
		for i := range min(32, fabric.RawBytes/size) {
			m.ready[k] = append(m.ready[k], m.transfer(k, i*slotsOf(size)))
		}
	}
	l := m.ready[k]
	x := l[len(l)-1]
	m.ready[k] = l[:len(l)-1]
	x.left, x.err = len(x.reqs), nil
	for _, q := range x.reqs {
		if err := m.conn.Submit(q); err != nil {
			return err
		}
	}
	return nil
}

func (m *requestMover) kick() { m.conn.Kick() }

func (m *requestMover) end() (int, error) {
	x := <-m.done
	for n := 1; ; n++ {
		m.ready[x.key] = append(m.ready[x.key], x)
		if x.err != nil {
			return n, x.err
		}
		select {
		case x = <-m.done:
		default:
			return n, nil
		}
	}
}

func (m *requestMover) cpu() time.Duration { return m.c.cpu(m.t) }
