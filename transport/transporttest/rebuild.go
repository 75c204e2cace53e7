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

// RunRebuild runs the suite of Conn.Rebuild.
func RunRebuild(t *testing.T, f GroupFactory) {
	for _, c := range []struct {
		name string
		test func(*testing.T, GroupFactory)
	}{
		{"Columns", testRebuildColumns},
		{"SourceDies", testRebuildSourceDies},
		{"TooManyDie", testRebuildTooManyDie},
		{"WrongTag", testRebuildWrongTag},
		{"Mismatch", testRebuildMismatch},
		{"Damaged", testRebuildDamaged},
		{"Contradiction", testRebuildContradiction},
		{"Erased", testRebuildErased},
		{"Refused", testRebuildRefused},
		{"Fenced", testRebuildFenced},
		{"SourceFenced", testRebuildSourceFenced},
		{"FencedUnderLoad", testRebuildFencedUnderLoad},
		{"Newer", testRebuildNewer},
		{"Traffic", testRebuildTraffic},
		{"Closed", testRebuildClosed},
		{"Direct", testRebuildDirect},
		{"Verify", testVerify},
		{"VerifyRow", testVerifyRow},
		{"VerifyMirror", testVerifyMirror},
		{"VerifyFenced", testVerifyFenced},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, f) })
	}
}

var rs42 = raid.Geometry{K: 4, M: 2}

// rebuilt does a rebuild and checks that exactly the rows that did not fail
// are stored.
func (c *codec) rebuilt(spec *transport.RebuildSpec) []transport.RebuildFailure {
	c.t.Helper()
	col := int(spec.Col)
	res, err := c.conns[col].Rebuild(ctx(c.t), spec)
	if err != nil {
		c.t.Fatal(err)
	}
	c.compare(spec, res)
	return res.Failed
}

func (c *codec) compare(spec *transport.RebuildSpec, res transport.RebuildResult) {
	c.t.Helper()
	want := make([]bool, len(c.rows))
	for _, r := range spec.Rows {
		want[c.row(r.Index)] = true
	}
	for _, f := range res.Failed {
		want[c.row(spec.Rows[f.Row].Index)] = false
	}
	col := int(spec.Col)
	if got := c.stored(c.conns[col], col); !slices.Equal(got, want) {
		c.t.Fatalf("%v, column %d: stored\n%v, want\n%v", c.geo, col, got, want)
	}
}

// headAt is the header of a row in a column, as it would be in another slot.
func (c *codec) headAt(col, row int, index uint32) []byte {
	c.t.Helper()
	head := slices.Clone(c.heads[col][row])
	if err := change(head, func(h *raid.Header) { h.Index = raid.Index(index) }); err != nil {
		c.t.Fatal(err)
	}
	return head
}

func (c *codec) row(index uint32) int {
	return slices.IndexFunc(c.rows, func(r transport.RebuildRow) bool { return r.Index == index })
}

// replace erases the target of a column.
func (c *codec) replace(col int) {
	c.t.Helper()
	c.erase(col, targetChunk+uint64(col), c.all(col)...)
}

// erase erases rows in a chunk of a column.
func (c *codec) erase(col int, chunk uint64, rows ...int) {
	c.t.Helper()
	for _, i := range rows {
		q := c.request(transport.OpWrite, col, chunk, []int{i})
		raid.PutErased(q.Segs[0].Header, raid.Site{Volume: volume, Group: groupID, Index: raid.Index(q.Segs[0].Index)}, 0)
		q.Segs[0].Page = nil
		if err := c.do(c.conns[col], q); err != nil {
			c.t.Fatal(err)
		}
	}
}

// Every column comes back byte for byte, from all others and without any one.
func testRebuildColumns(t *testing.T, f GroupFactory) {
	for _, g := range []raid.Geometry{rs42, {K: 2, M: 1}, {K: 1, M: 2}} {
		c := newCodec(t, f, g, 100)
		for col := range g.Members() {
			for lost := range g.Members() {
				if lost != col && g.M < 2 {
					continue
				}
				if fails := c.rebuilt(c.spec(col, 1<<lost)); fails != nil {
					t.Fatalf("%v, column %d without %d: %v", g, col, lost, fails)
				}
				c.replace(col)
			}
			// Parity first.
			s := c.spec(col, 0)
			slices.Reverse(s.Sources)
			if fails := c.rebuilt(s); fails != nil {
				t.Fatalf("%v, column %d from parity: %v", g, col, fails)
			}
			if res, err := c.conns[col].Rebuild(ctx(t), s); err != nil || res.Failed != nil || res.Pulled < uint64(len(s.Rows))*transport.PageSize {
				t.Fatalf("again: %+v, %v", res, err)
			}
		}
	}
}

// slow starts a rebuild that takes about two seconds, and returns when it has
// stored something: on a busy machine too the rest of it is still to come.
func (c *codec) slow(spec *transport.RebuildSpec) chan error {
	c.t.Helper()
	spec.RateBytes = int64(len(spec.Rows)*c.geo.K*transport.PageSize) / 2
	done := make(chan error, 1)
	col := int(spec.Col)
	go func() {
		res, err := c.conns[col].Rebuild(context.Background(), spec)
		if err == nil && res.Failed != nil {
			err = failures(res.Failed)
		}
		done <- err
	}()
	for end := time.Now().Add(time.Minute); !slices.Contains(c.stored(c.conns[col], col), true); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatal("nothing was stored in a minute")
		}
	}
	return done
}

// failures is a rebuild that failed for some rows.
type failures []transport.RebuildFailure

func (f failures) Error() string { return "rows failed: " + f[0].Reason.String() }

func (c *codec) end(done chan error) error {
	c.t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(time.Minute):
		c.t.Fatal("the rebuild did not end in a minute")
		return nil
	}
}

// Another source takes the place of the preferred one, which dies.
func testRebuildSourceDies(t *testing.T, f GroupFactory) {
	for _, col := range []int{1, 5} {
		c := newCodec(t, f, rs42, 400)
		s := c.spec(col, 0)
		done := c.slow(s)
		c.group.Servers[s.Sources[0].Col].Kill()
		if err := c.end(done); err != nil {
			t.Fatal(err)
		}
		c.compare(s, transport.RebuildResult{})
	}
}

// Rows that cannot be had are reported, the others are stored.
func testRebuildTooManyDie(t *testing.T, f GroupFactory) {
	c := newCodec(t, f, rs42, 400)
	s := c.spec(1, 0)
	done := c.slow(s)
	c.group.Servers[0].Kill()
	c.group.Servers[4].Kill()
	var fails failures
	if err := c.end(done); !errors.As(err, &fails) {
		t.Fatal(err)
	}
	c.compare(s, transport.RebuildResult{Failed: fails})
	for _, o := range fails {
		if o.Reason != transport.RebuildUnreachable {
			t.Fatal(o)
		}
	}
	if len(fails) == 0 || len(fails) == len(s.Rows) {
		t.Errorf("%d of %d failed", len(fails), len(s.Rows))
	}
}

// A source that holds another row is not used for it.
func testRebuildWrongTag(t *testing.T, f GroupFactory) {
	c := newCodec(t, f, rs42, 80)
	s := c.spec(2, 0)
	s.Rows[7].Tag++
	s.Rows[20].Tag--
	want := []transport.RebuildFailure{{Row: 7, Reason: transport.RebuildHeader, Col: 4}, {Row: 20, Reason: transport.RebuildHeader, Col: 4}}
	if fails := c.rebuilt(s); !slices.Equal(fails, want) {
		t.Fatal(fails)
	}
	// The preferred source missed a row: it has an older one there.
	full := slices.IndexFunc(c.rows, func(r transport.RebuildRow) bool { return r.Filled == 15 })
	other := slices.IndexFunc(c.rows, func(r transport.RebuildRow) bool { return r.Filled == 15 && r.Tag != c.rows[full].Tag })
	c.heads[0][full], c.pages[0][full] = c.headAt(0, other, c.rows[full].Index), c.pages[0][other]
	c.write(0, groupChunk, []int{full})
	c.replace(2)
	if fails := c.rebuilt(c.spec(2, 0)); fails != nil {
		t.Fatal(fails)
	}
	// With one parity less there is nothing to replace it.
	c.replace(2)
	fails := c.rebuilt(c.spec(2, 1<<5))
	if len(fails) != 1 || fails[0].Reason != transport.RebuildHeader {
		t.Fatal(fails)
	}
}

// Sources that are sound, and even of the right tag, but do not belong to the
// row: the others outvote them, or a parity member's table tells.
func testRebuildMismatch(t *testing.T, f GroupFactory) {
	c := newCodec(t, f, rs42, 80)
	row := slices.IndexFunc(c.rows, func(r transport.RebuildRow) bool { return r.Filled == 15 })
	for name, change := range map[string]func(*raid.Header){
		"sequence of the same tag": func(h *raid.Header) { h.Seq += 1 << 32 },
		"members":                  func(h *raid.Header) { h.Members = 7 },
		"settled":                  func(h *raid.Header) { h.Settled++ },
		"page":                     func(h *raid.Header) { h.Page++ },
		"checksum":                 nil,
	} {
		if change != nil {
			c.forgeHeader(0, row, change)
		} else {
			c.forge(0, row, func(*raid.Header) {})
		}
		if fails := c.rebuilt(c.spec(2, 0)); fails != nil {
			t.Errorf("%s: %v", name, fails)
		}
		c.replace(2)
		if fails := c.rebuilt(c.spec(2, 1<<5)); len(fails) != 1 || fails[0].Reason != transport.RebuildHeader {
			t.Errorf("%s, no other: %v", name, fails)
		}
		c.replace(2)
	}
}

// A page that was damaged in a source's memory is not used.
func testRebuildDamaged(t *testing.T, f GroupFactory) {
	c := newCodec(t, f, rs42, 80)
	row := slices.IndexFunc(c.rows, func(r transport.RebuildRow) bool { return r.Filled == 15 })
	for _, o := range []int{0, 4} {
		c.group.Servers[o].Damage(groupChunk+uint64(o), c.rows[row].Index, false)
	}
	if fails := c.rebuilt(c.spec(3, 1<<0)); len(fails) != 1 || fails[0].Reason != transport.RebuildChecksum {
		t.Fatal(fails)
	}
	c.replace(3)
	c.write(4, groupChunk+4, []int{row})
	if fails := c.rebuilt(c.spec(3, 0)); fails != nil {
		t.Fatal(fails)
	}
}

// An erased slot does not hold the row: as a source others serve in its place, as
// the target it is filled like one that was never written. To verify it is wrong.
func testRebuildErased(t *testing.T, f GroupFactory) {
	c := newCodec(t, f, rs42, 80)
	row := slices.IndexFunc(c.rows, func(r transport.RebuildRow) bool { return r.Filled == 15 })
	c.erase(0, groupChunk, row)
	c.erase(4, groupChunk+4, row)
	for _, col := range []int{1, 5} { // the targets were never written, then they are erased
		if fails := c.rebuilt(c.spec(col, 0)); len(fails) != 1 || fails[0].Reason != transport.RebuildHeader {
			t.Fatalf("column %d with two that are erased: %v", col, fails)
		}
		c.replace(col)
	}
	c.write(0, groupChunk, []int{row})
	for _, col := range []int{1, 5} {
		if fails := c.rebuilt(c.spec(col, 0)); fails != nil {
			t.Fatalf("column %d with one that is erased: %v", col, fails)
		}
	}
	at := slices.Index(c.all(4), row)
	want := []transport.RebuildFailure{{Row: at, Reason: transport.RebuildHeader, Col: 4}}
	if fails := c.verified(c.verifySpec(4, 0)); !slices.Equal(fails, want) {
		t.Errorf("verifying column 4: %v, want %v", fails, want)
	}
	// One that is verified from an erased source is right: the report names the source.
	want[0] = transport.RebuildFailure{Row: slices.Index(c.all(5), row), Reason: transport.RebuildHeader, Col: 0}
	c.write(4, groupChunk+4, []int{row})
	c.erase(0, groupChunk, row)
	if fails := c.verified(c.verifySpec(5, 0)); !slices.Equal(fails, want) {
		t.Errorf("verifying column 5: %v, want %v", fails, want)
	}
}

func testRebuildRefused(t *testing.T, f GroupFactory) {
	c := newCodec(t, f, raid.Geometry{K: 2, M: 1}, 10)
	h := c.hello(groupEpoch)
	h.Mode = transport.ModeReader
	reader, _, err := c.d.Dial(ctx(t), c.group.Servers[0].Addr, h, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.conns[0].OpenChunk(ctx(t), 300, transport.ChunkSpec{Slots: groupSlots, HeaderBytes: raid.HeaderSize, InPlace: true}); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]struct {
		conn  transport.Conn
		spoil func(*transport.RebuildSpec)
		want  error
	}{
		"reader":         {reader, func(*transport.RebuildSpec) {}, transport.ErrRefused},
		"in place":       {c.conns[0], func(s *transport.RebuildSpec) { s.Chunk = 300 }, transport.ErrRefused},
		"no chunk":       {c.conns[0], func(s *transport.RebuildSpec) { s.Chunk = 999 }, transport.ErrNoChunk},
		"outside":        {c.conns[0], func(s *transport.RebuildSpec) { s.Rows[3].Index = groupSlots }, transport.ErrNoChunk},
		"parity's shape": {c.conns[0], func(s *transport.RebuildSpec) { s.Chunk, s.Col = targetChunk, 2; s.Sources[1].Col = 0 }, transport.ErrNoChunk},
		"no rows":        {c.conns[0], func(s *transport.RebuildSpec) { s.Rows = nil }, transport.ErrBadRebuild},
		"a column twice": {c.conns[0], func(s *transport.RebuildSpec) { s.Sources[0].Col = 2 }, transport.ErrBadRebuild},
		"no sources":     {c.conns[0], func(s *transport.RebuildSpec) { noSources(s) }, transport.ErrBadRebuild},
		"verify itself": {c.conns[0], func(s *transport.RebuildSpec) {
			noSources(s)
			s.Verify = true
			s.Sources = []transport.RebuildSource{{Addr: "x"}}
		}, transport.ErrBadRebuild},
		"reader verifies": {reader, func(s *transport.RebuildSpec) { s.Verify = true }, transport.ErrRefused},
		"not filled":      {c.conns[0], func(s *transport.RebuildSpec) { s.Rows[0].Filled = 2 }, transport.ErrBadRebuild},
		"have":            {c.conns[0], func(s *transport.RebuildSpec) { s.Rows[0].Have |= 1 }, transport.ErrBadRebuild},
		"rate":            {c.conns[0], func(s *transport.RebuildSpec) { s.RateBytes = -1 }, transport.ErrBadRebuild},
	} {
		s := c.spec(0, 0)
		o.spoil(s)
		if name == "parity's shape" {
			for i := range s.Rows {
				s.Rows[i].Have = 2
			}
		}
		if _, err := o.conn.Rebuild(ctx(t), s); !errors.Is(err, o.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := c.spec(0, 0)
	s.Sources[0].Chunk = 999
	s.Sources[1].Incarnation++
	fails := c.rebuilt(s)
	if len(fails) != len(s.Rows) || fails[0].Reason != transport.RebuildRefused {
		t.Error(fails)
	}
	s = c.spec(0, 0)
	for i := range s.Rows {
		s.Rows[i].Have = 0
	}
	if fails := c.rebuilt(s); len(fails) != len(s.Rows) || fails[0].Reason != transport.RebuildTooFew {
		t.Error(fails)
	}
	if fails := c.rebuilt(c.spec(0, 0)); fails != nil {
		t.Error(fails)
	}
}

// A newer lease at the target ends the rebuild; nothing lands later.
func testRebuildFenced(t *testing.T, f GroupFactory) {
	c := newCodec(t, f, rs42, 400)
	s := c.spec(1, 0)
	done := c.slow(s)
	conn, _, err := c.d.Dial(ctx(t), c.group.Servers[1].Addr, c.hello(groupEpoch+1), nil)
	if err != nil {
		t.Fatal(err)
	}
	at := c.stored(conn, 1)
	if err := c.end(done); !errors.Is(err, transport.ErrStaleEpoch) {
		t.Fatal(err)
	}
	if later := c.stored(conn, 1); !slices.Equal(at, later) || !slices.Contains(at, false) {
		t.Error("slots were stored after a newer session was admitted, or all were before")
	}
}

// A newer lease at a source ends the rebuild too.
func testRebuildSourceFenced(t *testing.T, f GroupFactory) {
	c := newCodec(t, f, rs42, 400)
	s := c.spec(1, 0)
	done := c.slow(s)
	if _, _, err := c.d.Dial(ctx(t), c.group.Servers[0].Addr, c.hello(groupEpoch+1), nil); err != nil {
		t.Fatal(err)
	}
	var fails failures
	if err := c.end(done); !errors.As(err, &fails) || fails[len(fails)-1].Reason != transport.RebuildStaleEpoch {
		t.Fatal(err)
	}
	c.compare(s, transport.RebuildResult{Failed: fails})
}

// At full speed: what a new owner wrote is not overwritten by the rebuilds of
// the old one.
func testRebuildFencedUnderLoad(t *testing.T, f GroupFactory) {
	c := newCodec(t, f, raid.Geometry{K: 2, M: 1}, 300)
	all := c.all(0)
	first := all[len(all)-transport.MaxSegs:]
	// The new owner's pages: those of other, older rows. Over newer ones a
	// rebuild would not go anyway.
	second := all[:transport.MaxSegs]
	for epoch := uint64(groupEpoch); epoch < groupEpoch+12; epoch++ {
		s := c.spec(0, 0)
		s.Rows = s.Rows[len(s.Rows)-len(first):]
		old := c.conns[0]
		ended := make(chan struct{})
		const clients = 4
		for range clients {
			go func() {
				defer func() { ended <- struct{}{} }()
				for {
					if _, err := old.Rebuild(context.Background(), s); err != nil {
						if !errors.Is(err, transport.ErrClosed) && !errors.Is(err, transport.ErrStaleEpoch) {
							t.Error(err)
						}
						return
					}
				}
			}()
		}
		time.Sleep(time.Duration(epoch) * time.Millisecond) // in the middle of something
		conn, _, err := c.d.Dial(ctx(t), c.group.Servers[0].Addr, c.hello(epoch+1), nil)
		if err != nil {
			t.Fatal(err)
		}
		c.conns[0] = conn
		w := c.request(transport.OpWrite, 0, targetChunk, first)
		for i, r := range second {
			copy(w.Segs[i].Header, c.headAt(0, r, w.Segs[i].Index))
			copy(w.Segs[i].Page, c.pages[0][r])
		}
		if err := c.do(conn, w); err != nil {
			t.Fatal(err)
		}
		for range clients {
			<-ended
		}
		g := c.request(transport.OpRead, 0, targetChunk, first)
		if err := c.do(conn, g); err != nil {
			t.Fatal(err)
		}
		for i, r := range second {
			if !slices.Equal(g.Segs[i].Header, c.headAt(0, r, g.Segs[i].Index)) || !slices.Equal(g.Segs[i].Page, c.pages[0][r]) {
				t.Fatalf("epoch %d: a slot of the new owner was overwritten", epoch)
			}
		}
	}
}

// Pages come and go on the same connection while a rebuild runs, as many
// rebuilds as there may be.
func testRebuildTraffic(t *testing.T, f GroupFactory) {
	c := newCodec(t, f, rs42, 400)
	s := c.spec(1, 0)
	done := []chan error{c.slow(s)}
	for range transport.RebuildsInFlight {
		o := *s
		ch := make(chan error, 1)
		go func() {
			_, err := c.conns[1].Rebuild(context.Background(), &o)
			ch <- err
		}()
		done = append(done, ch)
	}
	rows := c.all(1)[:8]
	for range 100 {
		c.write(1, groupChunk+1, rows)
		if err := c.do(c.conns[1], c.request(transport.OpRead, 1, groupChunk+1, rows)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-done[0]:
		t.Fatalf("the rebuild ended before 200 requests did: %v", err)
	default:
	}
	for _, ch := range done {
		if err := c.end(ch); err != nil {
			t.Fatal(err)
		}
	}
	c.compare(s, transport.RebuildResult{})
}

// A slot that was used again meanwhile keeps what is newer.
func testRebuildNewer(t *testing.T, f GroupFactory) {
	c := newCodec(t, f, raid.Geometry{K: 2, M: 1}, 60)
	all := c.all(0)
	row, newer := all[0], all[len(all)-1]
	q := c.request(transport.OpWrite, 0, targetChunk, []int{row})
	copy(q.Segs[0].Header, c.headAt(0, newer, c.rows[row].Index))
	copy(q.Segs[0].Page, c.pages[0][newer])
	if err := c.do(c.conns[0], q); err != nil {
		t.Fatal(err)
	}
	s := c.spec(0, 0)
	want := []transport.RebuildFailure{{Row: 0, Reason: transport.RebuildHeader}}
	if res, err := c.conns[0].Rebuild(ctx(t), s); err != nil || !slices.Equal(res.Failed, want) {
		t.Fatal(res, err)
	}
	c.heads[0][row], c.pages[0][row] = c.headAt(0, newer, c.rows[row].Index), c.pages[0][newer]
	c.compare(s, transport.RebuildResult{})
}

func testRebuildClosed(t *testing.T, f GroupFactory) {
	c := newCodec(t, f, rs42, 400)
	s := c.spec(1, 0)
	done := c.slow(s)
	x, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.conns[1].Rebuild(x, s); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := c.conns[1].Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.end(done); !errors.Is(err, transport.ErrClosed) || errors.Is(err, transport.ErrStaleEpoch) {
		t.Error(err)
	}
	if _, err := c.conns[1].Rebuild(ctx(t), s); !errors.Is(err, transport.ErrClosed) {
		t.Error(err)
	}
}
