package server

import (
	"context"
	"math/bits"
	"sync"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// rebuildBatch is a worker's rows. It is used again for the next ones.
type rebuildBatch struct {
	r    *rebuild
	rows []rebuildRow

	ids    []uint16 // of the pool: len(rows) for each of K sources, then spare
	spare  []uint16 // the row that is made, and data columns on the way to it
	shards [][]byte
	parity [][]byte                 // of the row that is made: nil but for the target's
	head   [raid.MaxHeaderSize]byte // of the row that is made

	reads [transport.MaxRebuildMembers]pull
	wg    sync.WaitGroup // reads in flight
}

// pull is a read of one column.
type pull struct {
	req  transport.Request
	link *link
	rows []*rebuildRow // one a segment
}

func newRebuildBatch(r *rebuild) *rebuildBatch {
	b := &rebuildBatch{r: r, rows: make([]rebuildRow, 0, r.step), shards: make([][]byte, r.geo.Members()), parity: make([][]byte, r.geo.M)}
	for i := range b.reads {
		p := &b.reads[i]
		p.req.Op = transport.OpRead
		p.req.Done = func(*transport.Request) {
			<-p.link.credit
			b.wg.Done()
		}
	}
	return b
}

// run rebuilds the rows from..to of the request. An error ends the request.
func (b *rebuildBatch) run(ctx context.Context, from, to int) error {
	b.rows = b.rows[:to-from]
	for i := range b.rows {
		b.rows[i].begin(from+i, b.r.spec.Rows[from+i], b.r.session.volume.id)
	}
	if b.r.spec.Verify {
		if err := b.verifyOwn(ctx); err != nil {
			return err
		}
	}
	pool := b.r.session.s.pool
	defer func() {
		if len(b.ids) > 0 {
			pool.give(b.ids)
			b.ids = b.ids[:0]
		}
	}()
	for {
		bytes := b.plan()
		if bytes == 0 { // nothing is missing: all rows are stored or given up
			return ctx.Err()
		}
		// The rates first: who waits for them holds no buffers.
		if _, err := b.r.pace.Take(ctx, int64(bytes)); err != nil {
			return err
		}
		if _, err := b.r.session.s.pace.Take(ctx, int64(bytes)); err != nil {
			return err
		}
		if len(b.ids) == 0 {
			k := len(b.rows) * b.r.geo.K
			b.ids = append(b.ids[:0], make([]uint16, k+1+b.r.geo.M)...)
			if err := pool.take(ctx, b.ids); err != nil {
				b.ids = b.ids[:0]
				return err
			}
			b.spare = b.ids[k:]
		}
		if err := b.pull(ctx); err != nil {
			return err
		}
		for i := range b.rows {
			w := &b.rows[i]
			if w.done || w.set == 0 || w.got&w.set != w.set {
				continue
			}
			if b.r.spec.Verify {
				b.verify(w)
				continue
			}
			head, page := b.decode(w)
			if page == nil {
				continue // something was given up: planned anew
			}
			seq := w.head[bits.TrailingZeros32(w.set)].Seq
			ok, err := b.r.session.land(b.r.target, w.spec.Index, seq, head, page)
			if err != nil {
				return err
			}
			w.done = true
			if !ok {
				b.fail(w, transport.RebuildHeader, raid.Col(b.r.spec.Col))
				continue
			}
			b.r.session.s.n.rebuilt.Add(1)
		}
	}
}

// plan chooses the sources of every row that is not done, and gives up those
// that cannot be had. It returns how many bytes are to be read.
func (b *rebuildBatch) plan() int {
	var use uint32
	for _, o := range b.r.sources {
		if o.dead() == 0 {
			use |= 1 << o.col
		}
	}
	n := 0
	for i := range b.rows {
		w := &b.rows[i]
		if w.done {
			continue
		}
		if b.r.stale.Load() || !b.choose(w, use) {
			b.giveUp(w)
			continue
		}
		for m := w.set &^ w.got; m != 0; m &= m - 1 {
			n += b.r.byCol[bits.TrailingZeros32(m)].headerBytes
			if !b.headerOnly(w) {
				n += raid.PageSize
			}
		}
	}
	return n
}

// giveUp fails a row of which too little can be had.
func (b *rebuildBatch) giveUp(w *rebuildRow) {
	if w.suspects != 0 {
		b.fail(w, transport.RebuildMismatch, raid.Col(b.r.spec.Col)) // no witness for it
		return
	}
	why, col := b.reason(w)
	b.fail(w, why, col)
}

func (b *rebuildBatch) fail(w *rebuildRow, why transport.RebuildReason, col raid.Col) {
	w.done = true
	b.r.fails[w.i] = transport.RebuildFailure{Row: w.i, Reason: why, Col: uint8(col)}
	n := &b.r.session.s.n
	switch {
	case !b.r.spec.Verify:
		n.rebuildFailed.Add(1)
	case uint8(col) == b.r.spec.Col && why != transport.RebuildTooFew:
		n.verifyBad.Add(1)
	}
}

// choose sets w.set to the columns to make the row from: the target's own, where
// another chunk holds it; else what was read already and, in the order of
// preference, as many more as it takes.
func (b *rebuildBatch) choose(w *rebuildRow, use uint32) bool {
	if w.suspects != 0 {
		return b.chooseWitness(w, use)
	}
	want := raid.Col(b.r.spec.Col)
	if own := uint32(1) << want; w.spec.Have&use&^w.bad&own != 0 {
		w.set = own
		w.keep(own)
		return true
	}
	have := w.got
	set, err := b.r.coder.Sources(have, w.spec.Filled, want)
	for _, o := range b.r.sources {
		if err == nil {
			break
		}
		bit := uint32(1) << o.col
		if w.spec.Have&use&^w.bad&^have&bit != 0 {
			have |= bit
			set, err = b.r.coder.Sources(have, w.spec.Filled, want)
		}
	}
	if err != nil {
		return false
	}
	w.set = set
	w.keep(set)
	return true
}

// reason is why w cannot be had, and of which column.
func (b *rebuildBatch) reason(w *rebuildRow) (transport.RebuildReason, raid.Col) {
	if b.r.stale.Load() {
		for _, o := range b.r.sources {
			if o.dead() == transport.RebuildStaleEpoch {
				return transport.RebuildStaleEpoch, o.col
			}
		}
	}
	if w.why != 0 {
		return w.why, w.whyCol
	}
	for _, o := range b.r.sources {
		if why := o.dead(); why != 0 && w.spec.Have>>o.col&1 != 0 {
			return why, o.col
		}
	}
	return transport.RebuildTooFew, raid.Col(b.r.spec.Col)
}

// pull reads what is missing, one request a source, and inspects it. It
// returns when no request is in flight any more, whatever happens.
func (b *rebuildBatch) pull(ctx context.Context) error {
	pool := b.r.session.s.pool
	for i := range b.reads {
		b.reads[i].req.Segs, b.reads[i].rows = b.reads[i].req.Segs[:0], b.reads[i].rows[:0]
	}
	for i := range b.rows {
		w := &b.rows[i]
		if w.done {
			continue
		}
		for m := w.set &^ w.got; m != 0; m &= m - 1 {
			col := bits.TrailingZeros32(m)
			p := &b.reads[col]
			id := b.ids[w.place(col)*len(b.rows)+i] // a source's rows are neighbours
			w.pages[col], w.heads[col] = pool.page(id), pool.header(id, b.r.byCol[col].headerBytes)
			if b.headerOnly(w) {
				w.pages[col] = nil
			}
			p.rows = append(p.rows, w)
			p.req.Segs = append(p.req.Segs, transport.Seg{Index: w.spec.Index, Page: w.pages[col], Header: w.heads[col]})
		}
	}
	var err error
	for col := range b.reads {
		p := &b.reads[col]
		p.link, p.req.Err = nil, nil
		if len(p.rows) == 0 || err != nil {
			continue
		}
		err = b.submit(ctx, p, b.r.byCol[col])
	}
	b.wg.Wait()
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = b.r.session.alive()
	}
	if err != nil {
		return err
	}
	for col := range b.reads {
		p := &b.reads[col]
		if p.link == nil {
			continue // the source is dead, or all is read
		}
		if p.req.Err != nil {
			b.r.byCol[col].fail(p.link, p.req.Err)
			continue
		}
		for i, w := range p.rows {
			n := uint64(len(p.req.Segs[i].Page) + len(p.req.Segs[i].Header))
			b.r.pulled.Add(n)
			b.r.session.s.n.pulled.Add(n)
			w.inspect(b.r.geo, raid.Col(col))
		}
	}
	for _, o := range b.r.sources {
		if o.dead() == transport.RebuildStaleEpoch {
			b.r.stale.Store(true)
		}
	}
	return nil
}

// submit starts a read. With a dead source, p.link stays nil.
func (b *rebuildBatch) submit(ctx context.Context, p *pull, o *pullSource) error {
	l := o.get(ctx)
	if l == nil {
		return ctx.Err()
	}
	select {
	case l.credit <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	p.link = l
	p.req.Chunk = o.chunk
	p.req.Deadline = time.Now().Add(pullDeadline)
	b.wg.Add(1)
	if err := l.conn.Submit(&p.req); err != nil {
		p.req.Err = err
		<-l.credit
		b.wg.Done()
		return nil
	}
	l.conn.Kick()
	return nil
}
