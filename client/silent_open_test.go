package client

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dmps/raid"
)

var silentEvery = flag.Int("client.silent", 151, "TestOpenWhateverFallsSilent: try one in so many cases")

// found is what a client leaves that ended in the middle of a write, for the next one.
type found struct {
	l       *raid.Layout
	servers map[string]map[uint64]*fakeChunk
	want    []byte         // of all pages
	either  map[int][]byte // by page: what it may read as too
}

const foundPages, foundRows, foundGroups = 32, 64, 2

// leave makes a volume of which four pages were trimmed, and a row of others, while a client
// ended, was written again at the data members only. With damage one of these pages is
// damaged at one of them; with old one member shows memory from before the trim.
func leave(t *testing.T, g raid.Geometry, damage, rebuilding, old bool) *found {
	f := newSlowNet(g.Members())
	l := f.layout(raid.LayoutLog, g, foundPages, foundGroups, foundRows)
	v := openTest(t, f, l)
	r := rand.New(rand.NewPCG(1, 1))
	o := &found{want: randomBytes(r, foundPages*raid.PageSize), either: map[int][]byte{}}
	if _, err := v.WriteAt(o.want, 0); err != nil {
		t.Fatal(err)
	}
	first := f.copied()
	if err := v.Trim(8*raid.PageSize, 4*raid.PageSize); err != nil {
		t.Fatal(err)
	}
	clear(o.want[8*raid.PageSize : 12*raid.PageSize])
	before := f.copied()
	again := randomBytes(r, g.K*raid.PageSize) // one row
	if _, err := v.WriteAt(again, 0); err != nil {
		t.Fatal(err)
	}
	o.servers = f.copied()
	closeTest(t, v)
	damaged, rows := false, map[[2]int]bool{}
	for gi, gr := range l.Groups {
		for c, m := range gr.Members {
			ch, was := o.servers[m.Addr][uint64(m.Chunk)], before[m.Addr][uint64(m.Chunk)]
			size := len(ch.hdrs) / foundRows
			for i := raid.ViewRows; i < foundRows; i++ {
				if bytes.Equal(was.hdrs[i*size:][:size], ch.hdrs[i*size:][:size]) {
					continue
				}
				rows[[2]int{gi, i}] = true
				switch {
				case c >= g.K:
					copy(ch.hdrs[i*size:][:size], was.hdrs[i*size:][:size])
				case c == 0 && damage:
					ch.pages[i*raid.PageSize] ^= 1
					damaged = true
				}
			}
			if old && gi == 0 && c == g.K {
				copy(ch.hdrs[raid.ViewRows*size:], first[m.Addr][uint64(m.Chunk)].hdrs[raid.ViewRows*size:])
			}
		}
	}
	if len(rows) != 1 || damaged != damage {
		t.Fatalf("%d rows were written, damaged: %v", len(rows), damaged)
	}
	for p := range g.K {
		o.either[p] = again[p*raid.PageSize:][:raid.PageSize]
	}
	again2 := *l
	again2.FirstEpoch = false
	if rebuilding {
		again2.Groups[0].Members[g.Members()-1].State = raid.MemberRebuilding
	}
	o.l = &again2
	return o
}

// copied is what the servers hold.
func (f *fakeNet) copied() map[string]map[uint64]*fakeChunk {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[string]map[uint64]*fakeChunk{}
	for id, s := range f.servers {
		all[id] = map[uint64]*fakeChunk{}
		for k, ch := range s.chunks {
			all[id][k] = &fakeChunk{spec: ch.spec, hdrs: slices.Clone(ch.hdrs), pages: slices.Clone(ch.pages)}
		}
	}
	return all
}

// again is a network of servers that hold that.
func (o *found) again() *fakeNet {
	f := newSlowNet(len(o.servers))
	for id, chunks := range o.servers {
		for k, ch := range chunks {
			f.servers[id].chunks[k] = &fakeChunk{spec: ch.spec, hdrs: slices.Clone(ch.hdrs), pages: slices.Clone(ch.pages)}
		}
	}
	return f
}

// open attaches; what m has noted lasts.
func (o *found) open(ctx context.Context, f *fakeNet, m *fakeMeta, epoch raid.Epoch) (*Volume, error) {
	m.mu.Lock()
	l := m.layout
	l.Groups = cloneGroups(l.Groups)
	m.mu.Unlock()
	l.Epoch = epoch
	return Open(ctx, Config{Layout: &l, Dialer: f, Meta: m, Lease: Lease{TTL: time.Hour, Renew: 10 * time.Millisecond}, ArenaBytes: 1 << 20, Logger: quiet(), Patience: 8 * time.Second, DialTimeout: time.Second})
}

// judge reads all pages, and closes the volume: what is read is what the next one has to find.
func (o *found) judge(t *testing.T, v *Volume, either map[int][]byte, when string) {
	t.Helper()
	defer closeTest(t, v)
	got := make([]byte, len(o.want))
	if _, err := v.ReadAt(got, 0); err != nil {
		t.Errorf("%s: %v", when, err)
		return
	}
	for p := range foundPages {
		is := got[p*raid.PageSize:][:raid.PageSize]
		switch {
		case bytes.Equal(is, o.want[p*raid.PageSize:][:raid.PageSize]):
			delete(either, p)
		case either[p] != nil && bytes.Equal(is, either[p]):
		default:
			t.Errorf("%s: page %d reads as something else, zeros: %v", when, p, bytes.Equal(is, make([]byte, raid.PageSize)))
		}
	}
}

// Whatever falls silent while a volume is opened, and whenever, the open ends. A volume that is
// opened reads as it has to, and one that is refused is opened when the server is back.
func TestOpenWhateverFallsSilent(t *testing.T) {
	whats := map[string]func(f *fakeNet, id string){
		"cut":         func(f *fakeNet, id string) { f.cut(id) },
		"down 100ms":  func(f *fakeNet, id string) { downFor(f, id, 100*time.Millisecond) },
		"down 30s":    func(f *fakeNet, id string) { downFor(f, id, 30*time.Second) },
		"frozen 1s":   func(f *fakeNet, id string) { freezeFor(f, id, time.Second) },
		"frozen 3.1s": func(f *fakeNet, id string) { freezeFor(f, id, 3100*time.Millisecond) },
		"frozen 30s":  func(f *fakeNet, id string) { freezeFor(f, id, 30*time.Second) },
		"narrow 4s":   func(f *fakeNet, id string) { narrowFor(f, id, 4*time.Second) },
		"flaps":       func(f *fakeNet, id string) { go flap(f, id) },
		"lost":        func(f *fakeNet, id string) { f.kill(id); f.restart(id) },
	}
	for _, g := range []raid.Geometry{{K: 1, M: 2}, {K: 4, M: 2}} {
		for name, has := range map[string][3]bool{"unanswered": {}, "damaged": {true}, "rebuilding": {1: true}, "old": {2: true}} {
			t.Run(fmt.Sprintf("%v/%s", g, name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					o := leave(t, g, has[0], has[1], has[2])
					total := o.try(t)
					k, refused, n := 0, 0, 0
					for _, what := range slices.Sorted(mapKeys(whats)) {
						for id := range o.servers {
							for at := range total {
								if k++; k%*silentEvery != 0 {
									continue
								}
								n++
								if o.one(t, what, id, at, whats[what]) {
									refused++
								}
							}
						}
					}
					t.Logf("%d requests, %d cases, %d refused at first", total, n, refused)
				})
			})
		}
	}
}

func mapKeys(m map[string]func(*fakeNet, string)) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func downFor(f *fakeNet, id string, d time.Duration) {
	f.down(id, true)
	time.AfterFunc(d, func() { f.down(id, false) })
}

func freezeFor(f *fakeNet, id string, d time.Duration) {
	f.freeze(id)
	time.AfterFunc(d, func() { f.thaw(id) })
}

func narrowFor(f *fakeNet, id string, d time.Duration) {
	set := func(on bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.servers[id].narrow = on
	}
	set(true)
	time.AfterFunc(d, func() { set(false) })
}

func flap(f *fakeNet, id string) {
	for range 100 {
		f.cut(id)
		time.Sleep(25 * time.Millisecond)
	}
}

// try opens it while nothing is silent, and tells how many requests that takes.
func (o *found) try(t *testing.T) (asked int) {
	f := o.again()
	var n atomic.Int64
	f.asked = func() { n.Add(1) }
	v, err := o.open(context.Background(), f, newFakeMeta(o.l), 2)
	if err != nil {
		t.Fatal(err)
	}
	asked = int(n.Load())
	o.judge(t, v, copyOf(o.either), "nothing is silent")
	return asked
}

func copyOf(m map[int][]byte) map[int][]byte {
	c := map[int][]byte{}
	for k, b := range m {
		c[k] = b
	}
	return c
}

// one has do happen to a server at one request of an open, and opens once more when all are back.
func (o *found) one(t *testing.T, what, id string, at int, do func(*fakeNet, string)) (refused bool) {
	t.Helper()
	f, m := o.again(), newFakeMeta(o.l)
	var n atomic.Int64
	f.asked = func() {
		if n.Add(1) == int64(at+1) {
			do(f, id)
		}
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	v, err := o.open(ctx, f, m, 2)
	took := time.Since(began)
	if took > 100*time.Second {
		t.Errorf("%s, %s at request %d: the open took %v: %v", what, id, at, took, err)
	}
	either, when := copyOf(o.either), fmt.Sprintf("%s, %s at request %d", what, id, at)
	if err == nil {
		o.judge(t, v, either, when)
	}
	refused = err != nil
	time.Sleep(time.Minute) // all are back
	f.mu.Lock()
	f.asked = nil
	f.mu.Unlock()
	v, err2 := o.open(context.Background(), f, m, 3)
	if err2 != nil {
		t.Errorf("%s, %s at request %d: it is refused: first: %v, then: %v", what, id, at, err, err2)
		return refused
	}
	o.judge(t, v, either, when+", the second time")
	return refused
}

// A row was never answered, and has no member to spare. One of its pages is damaged at a server
// that answers for headers, and for no page while the volume is opened: nobody can prove the
// row, and what was answered before is lost when it is spared although there is room to move it.
func TestUnprovedRowIsNotSpared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := leave(t, raid.Geometry{K: 4, M: 2}, true, false, false)
		f, m := o.again(), newFakeMeta(o.l)
		narrowFor(f, o.l.Groups[0].Members[0].Addr, time.Minute)
		v, err := o.open(context.Background(), f, m, 2)
		time.Sleep(2 * time.Minute)
		if err != nil {
			if v, err = o.open(context.Background(), f, m, 3); err != nil {
				t.Fatal(err)
			}
		}
		o.judge(t, v, copyOf(o.either), "it answers again")
	})
}
