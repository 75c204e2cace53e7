package client

import (
	"testing"

	"dmps/raid"
)

// Who has a batch when all its transfers have ended, and whether that is enough.
func TestSettleColumns(t *testing.T) {
	f := newFakeNet(3)
	v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 100))
	defer closeTest(t, v)
	for name, c := range map[string]struct {
		b             batch
		wrote, second uint32
		ok            bool
	}{
		"all":                       {b: batch{p: raid.Placement{Members: 7, Named: 7}}, wrote: 7, ok: true},
		"one failed":                {b: batch{p: raid.Placement{Members: 7, Named: 7}, failed: 2}, wrote: 7},
		"one is out":                {b: batch{p: raid.Placement{Members: 3, Named: 3}}, wrote: 3, ok: true},
		"one more is named":         {b: batch{p: raid.Placement{Members: 3, Named: 7}}, wrote: 3},
		"too few":                   {b: batch{p: raid.Placement{Members: 1, Named: 1}}, wrote: 1},
		"a pending one":             {b: batch{p: raid.Placement{Members: 7, Named: 7, Second: 2}}, wrote: 7, second: 2, ok: true},
		"a pending one lags":        {b: batch{p: raid.Placement{Members: 7, Named: 7, Second: 2}, lagged: 2}, wrote: 7, ok: true},
		"promoted":                  {b: batch{p: raid.Placement{Members: 7, Named: 7, Second: 2}, promoted: 2}, wrote: 7, ok: true},
		"promoted, old one failed":  {b: batch{p: raid.Placement{Members: 7, Named: 7, Second: 2}, promoted: 2, failed: 2}, wrote: 7, ok: true},
		"promoted, new one lagged":  {b: batch{p: raid.Placement{Members: 7, Named: 7, Second: 2}, promoted: 2, lagged: 2}, wrote: 5},
		"promoted, never written":   {b: batch{p: raid.Placement{Members: 7, Named: 7}, promoted: 2}, wrote: 5},
		"promoted, and not named":   {b: batch{p: raid.Placement{Members: 7, Named: 5}, promoted: 2}, wrote: 5, ok: true},
		"promoted beside a failure": {b: batch{p: raid.Placement{Members: 7, Named: 7, Second: 2}, promoted: 2, failed: 4}, wrote: 7},
	} {
		v.mu.Lock()
		wrote, ok := c.b.settleColumns(v.mu.log, 2)
		v.mu.Unlock()
		if wrote != c.wrote || ok != c.ok || c.b.p.Second != c.second {
			t.Errorf("%s: wrote %b second %b ok %v, want %b %b %v", name, wrote, c.b.p.Second, ok, c.wrote, c.second, c.ok)
		}
	}
}

// What travels with the pages of a batch: who is named, what is settled, the table,
// and copies in the places that are filled with them.
func TestEncode(t *testing.T) {
	g := raid.Geometry{K: 3, M: 2}
	f := newFakeNet(5)
	v := openTest(t, f, f.layout(raid.LayoutLog, g, 64, 1, 100))
	defer closeTest(t, v)
	bufs, err := v.Alloc(t.Context(), 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer freeBufs(bufs)
	v.mu.Lock()
	defer v.mu.Unlock()
	b := v.mu.batches
	b.reset()
	for i, buf := range bufs {
		stamp(buf.Page, i, 1)
		buf.page = raid.PageNo(i)
		b.addPage(buf)
	}
	b.p = raid.Placement{Group: 0, Seq: 1000, Members: 0b01111, Named: 0b01111, Settled: 900, Pages: 2, N: 6, Rows: 2}
	b.p.Index[0], b.p.Index[1] = 7, 9
	b.addCopies()
	b.encode(v)
	for c := range raid.Col(4) {
		from, to := b.column(v, c)
		if to-from != 2 {
			t.Fatalf("column %d: %d places", c, to-from)
		}
		for i := from; i < to; i++ {
			buf, size := b.pageFor(v, c, i)
			h, err := raid.ParseHeader(buf.hdr[:size])
			if err != nil {
				t.Fatal(err)
			}
			row := i - from
			if h.Members != 0b01111 || h.Settled != 900 || h.Seq != 1000 || h.Filled != 7 || h.Site != v.site(0, b.p.Index[row]) || h.CRC != raid.Checksum(buf.Page) {
				t.Errorf("column %d row %d: %+v", c, row, h)
			}
			if int(c) < g.K {
				if err := stamped(buf.Page, row, 1); err != nil || h.Page != raid.PageNo(row) || h.Kind != raid.KindPage {
					t.Errorf("column %d row %d: %+v, %v", c, row, h, err)
				}
				continue
			}
			want := raid.RowEntry{Page: raid.PageNo(row), CRC: raid.Checksum(bufs[row].Page), Kind: raid.KindPage}
			for d := range g.K {
				if got := raid.ParseRowEntry(buf.hdr[:size], d); got != want {
					t.Errorf("column %d row %d: the table says %+v of column %d, not %+v", c, row, got, d, want)
				}
			}
		}
	}
	clear(b.bufs)
	b.reset()
}
