package client

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"dmps/raid"
)

// forge makes member c's slot of a row another batch's, sound by itself and with a
// tag that fits: how says what gives it away.
func forge(t *testing.T, f *fakeNet, l *raid.Layout, at raid.Place, c raid.Col, how string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	m := l.Groups[at.Group].Members[c]
	ch := f.servers[string(m.Server)].chunks[uint64(m.Chunk)]
	size := raid.HeaderBytes(l.Geometry, c)
	hb := ch.hdrs[int(at.Index)*size:][:size]
	h, err := raid.ParseHeader(hb)
	if err != nil {
		t.Fatal(err)
	}
	var table []raid.RowEntry
	for d := range l.Geometry.K {
		if size > raid.HeaderSize {
			table = append(table, raid.ParseRowEntry(hb, d))
		}
	}
	page := ch.pages[int(at.Index)*raid.PageSize:][:raid.PageSize]
	copy(page, randomBytes(rand.New(rand.NewPCG(9, uint64(c))), raid.PageSize))
	h.CRC = raid.Checksum(page)
	switch how {
	case "older batch":
		s := h.Seq + 1<<16
		for ; raid.TagOf(s) != raid.TagOf(h.Seq); s += 1 << 16 {
		}
		h.Seq = s
	case "same batch": // only its content contradicts
	}
	h.Put(hb, table)
}

// One source that is sound by itself and not of the row, or whose content does not
// fit, costs neither the page nor, by itself, its member's row.
func TestSourcesAreDistrustedOneByOne(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 4, M: 2}, {K: 2, M: 2}, {K: 3, M: 3}} {
		for wrong := 1; wrong < g.M; wrong++ {
			for _, how := range []string{"older batch", "same batch"} {
				for first := range g.Members() - 1 {
					t.Run(fmt.Sprintf("%v/%d %s/%d", g, wrong, how, first), func(t *testing.T) {
						f := newFakeNet(g.Members())
						l := f.layout(raid.LayoutLog, g, 64, 1, 100)
						v := openTest(t, f, l, patient)
						defer closeTest(t, v)
						want := randomBytes(rand.New(rand.NewPCG(1, 4)), 64*raid.PageSize)
						if _, err := v.WriteAt(want, 0); err != nil {
							t.Fatal(err)
						}
						v.mu.Lock()
						at := v.mu.log.Place(v.mu.log.Lookup(0).Slot)
						v.mu.Unlock()
						f.down(string(l.Groups[0].Members[at.Col].Server), true)
						waitFor(t, func() bool { return v.Report().State == StateDegraded })
						for i := range wrong {
							c := (int(at.Col) + 1 + first + i) % g.Members()
							if c == int(at.Col) {
								c = (c + 1) % g.Members()
							}
							forge(t, f, l, at, raid.Col(c), how)
						}
						got := make([]byte, raid.PageSize)
						if _, err := v.ReadAt(got, 0); err != nil {
							t.Errorf("1 member is away, %d wrong, M is %d: %v", wrong, g.M, err)
						} else if !bytes.Equal(got, want[:raid.PageSize]) {
							t.Error("wrong content")
						}
						if n := v.Report().Counters["corrupt_pages"]; n != 0 {
							t.Errorf("%d slots count as damaged on a mere contradiction", n)
						}
					})
				}
			}
		}
	}
}

// More wrong sources than there is redundancy for: an error, never a page, and no
// endless search.
func TestTooManyWrongSources(t *testing.T) {
	g := raid.Geometry{K: 4, M: 2}
	for _, how := range []string{"older batch", "same batch"} {
		t.Run(how, func(t *testing.T) {
			f := newFakeNet(6)
			l := f.layout(raid.LayoutLog, g, 64, 1, 100)
			v := openTest(t, f, l, patient, func(c *Config) { c.Patience = 300 * time.Millisecond })
			defer closeTest(t, v)
			if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, 4)), 64*raid.PageSize), 0); err != nil {
				t.Fatal(err)
			}
			v.mu.Lock()
			at := v.mu.log.Place(v.mu.log.Lookup(0).Slot)
			v.mu.Unlock()
			f.down(string(l.Groups[0].Members[at.Col].Server), true)
			waitFor(t, func() bool { return v.Report().State == StateDegraded })
			for c := range raid.Col(g.Members()) {
				if c != at.Col && int(c) != g.K {
					forge(t, f, l, at, c, how)
				}
			}
			if _, err := v.ReadAt(make([]byte, raid.PageSize), 0); !errors.Is(err, ErrLost) {
				t.Errorf("one sound source of four: %v", err)
			}
		})
	}
}
