package transporttest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"dmps/raid"
	"dmps/transport"
)

func noSources(s *transport.RebuildSpec) {
	s.Sources, s.Rows = nil, slices.Clone(s.Rows)
	for i := range s.Rows {
		s.Rows[i].Have = 0
	}
}

// own adds the chunk of the rows in the target's column to a rebuild's sources.
func (c *codec) own(s *transport.RebuildSpec) {
	p := c.group.Servers[s.Col]
	s.Sources = append(s.Sources, transport.RebuildSource{Addr: p.Addr, Incarnation: p.Incarnation, Chunk: groupChunk + uint64(s.Col), Col: s.Col})
	for i := range s.Rows {
		s.Rows[i].Have |= 1 << s.Col
	}
}

// A source of the target's own column is copied: one read a row. Where it
// fails, or does not hold the row, the others serve.
func testRebuildDirect(t *testing.T, f GroupFactory) {
	for _, g := range []raid.Geometry{rs42, {K: 2, M: 1}, {K: 1, M: 2}} {
		c := newCodec(t, f, g, 100)
		for col := range g.Members() {
			size := uint64(transport.PageSize + raid.HeaderBytes(g, raid.Col(col)))
			s := c.spec(col, 0)
			c.own(s)
			res, err := c.conns[col].Rebuild(ctx(t), s)
			if err != nil || res.Failed != nil || res.Pulled != uint64(len(s.Rows))*size {
				t.Fatalf("%v, column %d: %+v, %v", g, col, res, err)
			}
			c.compare(s, res)
			c.replace(col)

			// Alone it is enough.
			alone := *s
			alone.Sources, alone.Rows = s.Sources[len(s.Sources)-1:], slices.Clone(s.Rows)
			for i := range alone.Rows {
				alone.Rows[i].Have = 1 << col
			}
			if fails := c.rebuilt(&alone); fails != nil {
				t.Fatalf("%v, column %d alone: %v", g, col, fails)
			}
			c.replace(col)

			// A page and a header are damaged, and it does not hold one row.
			c.group.Servers[col].Damage(groupChunk+uint64(col), s.Rows[3].Index, false)
			c.group.Servers[col].Damage(groupChunk+uint64(col), s.Rows[9].Index, true)
			s.Rows[12].Have &^= 1 << col
			want := []transport.RebuildFailure{
				{Row: 3, Reason: transport.RebuildChecksum, Col: uint8(col)}, {Row: 9, Reason: transport.RebuildHeader, Col: uint8(col)},
			}
			if fails := c.rebuilt(&alone); !slices.Equal(fails, want) {
				t.Fatalf("%v, column %d alone, damaged: %v", g, col, fails)
			}
			c.replace(col)
			res, err = c.conns[col].Rebuild(ctx(t), s)
			if err != nil || res.Failed != nil || res.Pulled <= uint64(len(s.Rows))*size {
				t.Fatalf("%v, column %d, damaged: %+v, %v", g, col, res, err)
			}
			c.compare(s, res)
			c.write(col, groupChunk+uint64(col), c.all(col))
			c.replace(col)

			// It is not there at all.
			s.Sources[len(s.Sources)-1].Incarnation++
			if fails := c.rebuilt(s); fails != nil {
				t.Fatalf("%v, column %d, gone: %v", g, col, fails)
			}
			c.replace(col)
		}
	}
}

// verifySpec asks to verify what column col holds of all rows against all
// others but without.
func (c *codec) verifySpec(col int, without uint32) *transport.RebuildSpec {
	s := c.spec(col, without)
	s.Chunk, s.Verify = groupChunk+uint64(col), true
	return s
}

// verified verifies and checks the accounts.
func (c *codec) verified(s *transport.RebuildSpec) []transport.RebuildFailure {
	c.t.Helper()
	res, err := c.conns[s.Col].Rebuild(ctx(c.t), s)
	if err != nil {
		c.t.Fatal(err)
	}
	size := transport.PageSize + raid.HeaderBytes(c.geo, raid.Col(s.Col))
	if res.Checked != uint64(len(s.Rows)*size) {
		c.t.Fatalf("%v, column %d: %d bytes were verified, not %d", c.geo, s.Col, res.Checked, len(s.Rows)*size)
	}
	local := len(s.Sources) == 0 || c.geo.K > 1 && int(s.Col) < c.geo.K
	if (res.Pulled == 0) != local {
		c.t.Fatalf("%v, column %d: %d bytes were pulled", c.geo, s.Col, res.Pulled)
	}
	return res.Failed
}

// What is right is found right, what is not is found and left as it is.
func testVerify(t *testing.T, f GroupFactory) {
	for _, g := range []raid.Geometry{rs42, {K: 2, M: 1}, {K: 1, M: 2}} {
		c := newCodec(t, f, g, 100)
		for col := range g.Members() {
			for _, s := range []*transport.RebuildSpec{c.verifySpec(col, 0), c.verifySpec(col, 1<<((col+1)%g.Members()))} {
				if g.M < 2 && len(s.Sources) < g.K {
					continue
				}
				if fails := c.verified(s); fails != nil {
					t.Fatalf("%v, column %d: %v", g, col, fails)
				}
			}
			s := c.verifySpec(col, 0)
			noSources(s)
			if fails := c.verified(s); fails != nil {
				t.Fatalf("%v, column %d by itself: %v", g, col, fails)
			}
		}
		for col := range g.Members() {
			s := c.verifySpec(col, 0)
			c.group.Servers[col].Damage(s.Chunk, s.Rows[5].Index, false)
			c.group.Servers[col].Damage(s.Chunk, s.Rows[12].Index, true)
			s.Rows[20].Tag++
			want := []transport.RebuildFailure{
				{Row: 5, Reason: transport.RebuildChecksum, Col: uint8(col)},
				{Row: 12, Reason: transport.RebuildHeader, Col: uint8(col)},
				{Row: 20, Reason: transport.RebuildHeader, Col: uint8(col)},
			}
			for range 2 { // nothing is repaired
				if fails := c.verified(s); !slices.Equal(fails, want) {
					t.Fatalf("%v, column %d damaged: %v", g, col, fails)
				}
			}
			noSources(s)
			if fails := c.verified(s); !slices.Equal(fails, want) {
				t.Fatalf("%v, column %d damaged, by itself: %v", g, col, fails)
			}
			// An empty chunk holds nothing of it.
			s = c.verifySpec(col, 0)
			s.Chunk = targetChunk + uint64(col)
			if res, err := c.conns[col].Rebuild(ctx(t), s); err != nil || len(res.Failed) != len(s.Rows) {
				t.Fatalf("%v, column %d empty: %+v, %v", g, col, res, err)
			}
			if slices.Contains(c.stored(c.conns[col], col), true) {
				t.Fatal("a verification stored something")
			}
			c.write(col, groupChunk+uint64(col), c.all(col))
			s = c.verifySpec(col, 0)
			if fails := c.verified(s); fails != nil {
				t.Fatalf("%v, column %d written again: %v", g, col, fails)
			}
		}
	}
}

// forge stores something sound in a slot that is not what the row makes it: another
// page, and the header as f changes it.
func (c *codec) forge(col, row int, f func(*raid.Header)) {
	c.t.Helper()
	c.forgeSlot(col, row, func(page []byte) { page[9]++ }, f)
}

// forgeHeader leaves the page.
func (c *codec) forgeHeader(col, row int, f func(*raid.Header)) {
	c.t.Helper()
	c.forgeSlot(col, row, func([]byte) {}, f)
}

func (c *codec) forgeSlot(col, row int, page func([]byte), f func(*raid.Header)) {
	c.t.Helper()
	q := c.request(transport.OpWrite, col, groupChunk+uint64(col), []int{row})
	page(q.Segs[0].Page)
	err := change(q.Segs[0].Header, func(h *raid.Header) {
		h.CRC = raid.Checksum(q.Segs[0].Page)
		f(h)
	})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.do(c.conns[col], q); err != nil {
		c.t.Fatal(err)
	}
}

// A parity slot is compared with its row, and the side that is wrong is found.
func testVerifyRow(t *testing.T, f GroupFactory) {
	c := newCodec(t, f, rs42, 80)
	row := slices.IndexFunc(c.rows, func(r transport.RebuildRow) bool { return r.Filled == 15 })
	at := slices.Index(c.all(4), row)
	check := func(what string, without uint32, reason transport.RebuildReason, col uint8) {
		t.Helper()
		want := []transport.RebuildFailure{{Row: at, Reason: reason, Col: col}}
		if fails := c.verified(c.verifySpec(4, without)); !slices.Equal(fails, want) {
			t.Errorf("%s: %v, want %v", what, fails, want)
		}
	}
	// Its own slot.
	for name, change := range map[string]func(*raid.Header){
		"parity of something else": func(*raid.Header) {},
		"sequence of the same tag": func(h *raid.Header) { h.Seq += 1 << 32 },
		"members":                  func(h *raid.Header) { h.Members = 7 },
		"settled":                  func(h *raid.Header) { h.Settled++ },
	} {
		c.forge(4, row, change)
		check(name, 0, transport.RebuildMismatch, 4)
		check(name+", no other parity", 1<<5, transport.RebuildMismatch, 4)
		check(name+", from the other parity", 1<<1, transport.RebuildMismatch, 4)
	}
	c.write(4, groupChunk+4, []int{row})
	// The other parity is not asked when all data is there.
	c.forge(5, row, func(*raid.Header) {})
	if fails := c.verified(c.verifySpec(4, 0)); fails != nil {
		t.Error(fails)
	}
	c.write(5, groupChunk+5, []int{row})
	// A data slot.
	c.forge(1, row, func(*raid.Header) {})
	check("data, and a witness", 0, transport.RebuildMismatch, 1)
	check("data, and no witness", 1<<5, transport.RebuildMismatch, 4)
	c.forge(1, row, func(h *raid.Header) { h.Seq += 1 << 32 })
	check("data of another sequence", 0, transport.RebuildHeader, 1)
	c.write(1, groupChunk+1, []int{row})
	c.group.Servers[1].Damage(groupChunk+1, c.rows[row].Index, false)
	check("damaged data", 0, transport.RebuildChecksum, 1)
	check("damaged data, and too few others", 1<<5, transport.RebuildChecksum, 1)
	c.write(1, groupChunk+1, []int{row})
	if fails := c.verified(c.verifySpec(4, 0)); fails != nil {
		t.Error(fails)
	}
	// Sources that cannot be had.
	c.group.Servers[0].Kill()
	if fails := c.verified(c.verifySpec(4, 0)); fails != nil {
		t.Error(fails)
	}
	c.group.Servers[5].Kill()
	s := c.verifySpec(4, 0)
	fails := c.verified(s)
	if len(fails) == 0 {
		t.Error("rows were found right that could not be compared")
	}
	for _, o := range fails {
		if o.Reason != transport.RebuildUnreachable || o.Col != 0 && o.Col != 5 {
			t.Error(o)
		}
	}
}

// A mirror's copy is compared by its header, and the third copy decides.
func testVerifyMirror(t *testing.T, f GroupFactory) {
	c := newCodec(t, f, raid.Geometry{K: 1, M: 2}, 50)
	const row = 7
	check := func(what string, col int, without uint32, want ...transport.RebuildFailure) {
		t.Helper()
		if fails := c.verified(c.verifySpec(col, without)); !slices.Equal(fails, want) {
			t.Errorf("%s: %v, want %v", what, fails, want)
		}
	}
	s := c.verifySpec(2, 0)
	if res, err := c.conns[2].Rebuild(ctx(t), s); err != nil || res.Pulled != uint64(len(s.Rows)*raid.HeaderSize) {
		t.Errorf("%+v, %v: more than headers was pulled", res, err)
	}
	mismatch := func(col uint8) transport.RebuildFailure {
		return transport.RebuildFailure{Row: row, Reason: transport.RebuildMismatch, Col: col}
	}
	c.forge(2, row, func(h *raid.Header) { h.Page++ })
	check("its own", 2, 0, mismatch(2))
	check("its own, one other", 2, 1<<0, mismatch(2))
	check("not asked", 1, 0)
	check("another's", 0, 1<<1, mismatch(0)) // one against one
	c.write(2, groupChunk+2, []int{row})
	c.forge(0, row, func(h *raid.Header) { h.Page++ })
	check("the other's", 2, 0, mismatch(0))
	c.write(0, groupChunk, []int{row})
	c.group.Servers[0].Damage(groupChunk, c.rows[row].Index, true)
	check("the other's header", 2, 0, transport.RebuildFailure{Row: row, Reason: transport.RebuildHeader, Col: 0})
}

// A newer lease ends a verification.
func testVerifyFenced(t *testing.T, f GroupFactory) {
	c := newCodec(t, f, raid.Geometry{K: 2, M: 1}, 400)
	s := c.verifySpec(0, 0)
	s.RateBytes = int64(len(s.Rows)*transport.PageSize) / 5
	done := make(chan error, 1)
	conn := c.conns[0]
	go func() {
		_, err := conn.Rebuild(context.Background(), s)
		done <- err
	}()
	time.Sleep(100 * time.Millisecond)
	if _, _, err := c.d.Dial(ctx(t), c.group.Servers[0].Addr, c.hello(groupEpoch+1), nil); err != nil {
		t.Fatal(err)
	}
	if err := c.end(done); !errors.Is(err, transport.ErrStaleEpoch) {
		t.Fatal(err)
	}
}
