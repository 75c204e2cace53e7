package crashloop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"dmps/raid"
	"dmps/server"
	"dmps/transport"
	"dmps/transport/mem"
)

const (
	clusterID = "crashloop"
	volumeID  = raid.VolumeID(1)
)

// box is a memory server and the machine that it runs on.
type box struct {
	net   *mem.Network
	addr  string
	mem   int64
	gate  *gate            // nobody comes past it
	roads map[string]gates // to the other servers
	s     *server.Server
	host  *mem.Host

	// memory is held shared by whoever moves pages, and for changing them behind the
	// server's back: then nobody else is in it.
	memory sync.RWMutex

	snaps []snapshot
}

// snapshot is what a chunk held some time ago.
type snapshot struct {
	incarnation    raid.Incarnation
	chunk          raid.ChunkID
	pages, headers []byte
}

func newBox(net *mem.Network, addr string, mem int64) (*box, error) {
	b := &box{net: net, addr: addr, mem: mem, gate: newGate(), roads: map[string]gates{}}
	return b, b.start()
}

func (b *box) start() error {
	peers := newWire(b.net.Dialer(), 0, 0)
	peers.gates = b.roads
	s, err := server.New(server.Config{
		ID: raid.ServerID(b.addr), Cluster: clusterID, Memory: b.mem, AllowSwappable: true, Peers: peers, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return fmt.Errorf("starting server %s: %w", b.addr, err)
	}
	b.s = s
	b.host = b.net.Serve(b.addr, &lender{b, s})
	return nil
}

func (b *box) stop() error {
	b.host.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return b.s.Close(ctx)
}

// restart brings the server back empty: what it held is gone.
func (b *box) restart() error { return errors.Join(b.stop(), b.start()) }

func (b *box) mode() gateMode {
	m, _ := b.gate.state()
	return m
}

// set cuts the server off, or lets it be reached again, by all clients and other
// servers.
func (b *box) set(m gateMode) { b.gate.set(m) }

// lender is the server as the network sees it: whoever moves pages holds the memory
// meanwhile.
type lender struct {
	b *box
	s *server.Server
}

type lent struct {
	transport.Session
	b *box
}

func (l *lender) Open(ctx context.Context, h transport.Hello, stop func(error)) (transport.Session, transport.Welcome, error) {
	s, w, err := l.s.Open(ctx, h, stop)
	if err != nil {
		return nil, w, err
	}
	return &lent{s, l.b}, w, nil
}

// hold takes the memory for what begins, unless that fails.
func (l *lent) hold(begin func(*transport.SlotIO) error, io *transport.SlotIO) error {
	l.b.memory.RLock()
	err := begin(io)
	if err != nil {
		l.b.memory.RUnlock()
	}
	return err
}

func (l *lent) BeginWrite(io *transport.SlotIO) error { return l.hold(l.Session.BeginWrite, io) }
func (l *lent) BeginRead(io *transport.SlotIO) error  { return l.hold(l.Session.BeginRead, io) }
func (l *lent) BeginReadHeaders(io *transport.SlotIO) error {
	return l.hold(l.Session.BeginReadHeaders, io)
}

func (l *lent) CommitWrite(io *transport.SlotIO) error {
	defer l.b.memory.RUnlock()
	return l.Session.CommitWrite(io)
}

func (l *lent) AbortWrite(io *transport.SlotIO) {
	defer l.b.memory.RUnlock()
	l.Session.AbortWrite(io)
}

func (l *lent) EndRead(io *transport.SlotIO) {
	defer l.b.memory.RUnlock()
	l.Session.EndRead(io)
}

func (l *lent) Rebuild(ctx context.Context, spec *transport.RebuildSpec) (transport.RebuildResult, error) {
	l.b.memory.RLock()
	defer l.b.memory.RUnlock()
	return l.Session.Rebuild(ctx, spec)
}

// touch calls f with the memory of a chunk, while nobody else is in it. It reports
// false when the server does not have it.
func (b *box) touch(chunk raid.ChunkID, f func(pages, headers []byte, slots, headerBytes int)) bool {
	for !b.memory.TryLock() {
		time.Sleep(50 * time.Microsecond)
	}
	defer b.memory.Unlock()
	// The epoch of a reader is not kept: it fences nobody.
	s, _, err := b.s.Open(context.Background(), transport.Hello{Cluster: clusterID, Volume: uint64(volumeID), Epoch: 1 << 62, Mode: transport.ModeReader}, func(error) {})
	if err != nil {
		return false
	}
	defer s.Close()
	x, err := s.(transport.Exposer).Expose(uint64(chunk))
	if err != nil {
		return false
	}
	f(x.Pages, x.Headers, int(x.Spec.Slots), int(x.Spec.HeaderBytes))
	return true
}

// snap remembers what a chunk holds.
func (b *box) snap(chunk raid.ChunkID) {
	b.touch(chunk, func(pages, headers []byte, _, _ int) {
		if len(b.snaps) == 3 {
			b.snaps = b.snaps[1:]
		}
		b.snaps = append(b.snaps, snapshot{b.s.Incarnation(), chunk, slices.Clone(pages), slices.Clone(headers)})
	})
}

// lie is a way in which a server's memory changes behind its back.
type lie uint8

const (
	lieZeros     lie = iota // all of it turns to zeros
	lieHeaders              // headers do, pages stay
	lieSwap                 // slots change places, header and page: each is sound, but not what should be there
	lieNeighbour            // likewise, with neighbours: of one batch, often
	lieFlip                 // bytes change
	lieOld                  // all of it is as it was some time ago
	lieOldSlots             // some slots are
	lies
)

func (l lie) String() string {
	return [...]string{"memory turns to zeros", "headers turn to zeros", "slots change places", "neighbouring slots change places", "bytes change", "memory as it was before", "slots as they were before"}[l]
}

// move is the kind of move that a lie is.
func (l lie) move() Move {
	switch l {
	case lieZeros, lieHeaders:
		return Zeroed
	case lieSwap, lieNeighbour:
		return Swapped
	case lieFlip:
		return Flipped
	}
	return Rewound
}

// tell makes a chunk lie. It reports false when nothing changed.
func (b *box) tell(l lie, chunk raid.ChunkID, r *rand.Rand) (done bool) {
	var old *snapshot
	for i := range b.snaps {
		if s := &b.snaps[i]; s.chunk == chunk && s.incarnation == b.s.Incarnation() {
			old = s
			if r.IntN(2) == 0 {
				break
			}
		}
	}
	b.touch(chunk, func(pages, headers []byte, slots, hb int) {
		slot := func(i int) (page, head []byte) { return pages[i*raid.PageSize:][:raid.PageSize], headers[i*hb:][:hb] }
		some := 1 + r.IntN(slots)
		done = true
		switch l {
		case lieZeros:
			clear(pages)
			clear(headers)
		case lieHeaders:
			clear(headers)
		case lieSwap, lieNeighbour:
			for range some {
				i := r.IntN(slots)
				k := r.IntN(slots)
				if l == lieNeighbour {
					k = (i + 1) % slots
				}
				p, h := slot(i)
				q, g := slot(k)
				for n := range p {
					p[n], q[n] = q[n], p[n]
				}
				for n := range h {
					h[n], g[n] = g[n], h[n]
				}
			}
		case lieFlip:
			for range some {
				if r.IntN(3) == 0 {
					headers[r.IntN(len(headers))] ^= 1 << r.IntN(8)
				} else {
					pages[r.IntN(len(pages))] ^= 1 << r.IntN(8)
				}
			}
		case lieOld, lieOldSlots:
			if done = old != nil; !done {
				return
			}
			if l == lieOld {
				copy(pages, old.pages)
				copy(headers, old.headers)
				return
			}
			for range some {
				i := r.IntN(slots)
				p, h := slot(i)
				copy(p, old.pages[i*raid.PageSize:][:raid.PageSize])
				copy(h, old.headers[i*hb:][:hb])
			}
		}
	})
	return done
}
