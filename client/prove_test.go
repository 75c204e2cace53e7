package client

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"dmps/raid"
)

// A client ended while a write was under way, which reached as many members as a row needs,
// and one of these has damaged its page. That page was never answered: what was answered
// before is not lost with it.
func TestUnansweredRowWithADamagedPage(t *testing.T) {
	for _, g := range []raid.Geometry{{K: 1, M: 1}, {K: 2, M: 1}, {K: 4, M: 2}} {
		t.Run(g.String(), func(t *testing.T) {
			for group := range raid.GroupID(2) {
				unansweredAndDamaged(t, g, group)
			}
		})
	}
}

// unansweredAndDamaged does so with a row in one of two groups.
func unansweredAndDamaged(t *testing.T, g raid.Geometry, group raid.GroupID) {
	const rows = 64
	f := newFakeNet(g.Members())
	l := f.layout(raid.LayoutLog, g, 16, 2, rows)
	v := openTest(t, f, l)
	r := rand.New(rand.NewPCG(1, 1))
	chunks, before := make([]*fakeChunk, g.Members()), make([][]byte, g.Members())
	var first []byte
	written := false
	for last := randomBytes(r, g.K*raid.PageSize); !written; last = randomBytes(r, g.K*raid.PageSize) {
		for c, m := range l.Groups[group].Members {
			chunks[c] = f.servers[m.Addr].chunks[uint64(m.Chunk)]
			before[c] = slices.Clone(chunks[c].hdrs)
		}
		if _, err := v.WriteAt(last, 0); err != nil {
			t.Fatal(err)
		}
		if written = first != nil && !bytes.Equal(before[0], chunks[0].hdrs); !written {
			first = last
		}
	}
	headers, pages := make([][]byte, g.Members()), make([][]byte, g.Members())
	for c, ch := range chunks {
		headers[c], pages[c] = slices.Clone(ch.hdrs), slices.Clone(ch.pages)
	}
	closeTest(t, v)
	for c, ch := range chunks { // as if it had ended then
		copy(ch.hdrs, headers[c])
		copy(ch.pages, pages[c])
		size := len(ch.hdrs) / rows
		for i := range rows {
			if h := before[c][i*size:][:size]; !bytes.Equal(h, headers[c][i*size:][:size]) {
				switch {
				case c >= g.K:
					copy(ch.hdrs[i*size:], h) // it did not get it
				case c == 0:
					ch.pages[i*raid.PageSize] ^= 1
				}
			}
		}
	}
	again := *l
	again.Epoch, again.FirstEpoch = 2, false
	v = openTest(t, f, &again)
	defer closeTest(t, v)
	compareAll(t, v, append(first, make([]byte, (16-g.K)*raid.PageSize)...))
	if rep := v.Report(); rep.LostPages != 0 || rep.BadSlots[l.Groups[group].Members[0].Server] == 0 || rep.Counters["corrupt_pages"] == 0 {
		t.Errorf("%d pages are lost, bad slots: %v, %d pages", rep.LostPages, rep.BadSlots, rep.Counters["corrupt_pages"])
	}
}
