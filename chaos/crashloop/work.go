package crashloop

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"dmps/client"
	"dmps/raid"
)

// life is one client, from its start to its end.
type life struct {
	*run
	n     int
	epoch raid.Epoch
	w     *wire
	meta  *gate
	v     *client.Volume
	style *style

	workers uint64 // that were started

	stop     atomic.Bool // workers do nothing new
	ending   atomic.Bool // ops may end with an error
	replaced atomic.Bool // another client opens the volume, or has it
	wg       sync.WaitGroup
}

// style is what workers do, in parts of their sum.
type style struct {
	name                                         string
	workers, page, many, part, fill, trim, reads int
	think                                        time.Duration // most between two ops
	undo                                         bool          // only pages of ops that failed, and zeros
}

var everything = style{name: "everything", workers: 4, page: 3, many: 3, part: 3, trim: 2, fill: 2, reads: 4, think: 2 * time.Millisecond}

var styles = []style{
	{name: "single pages", workers: 1, page: 8, trim: 1, fill: 1, reads: 2},
	{name: "single pages, two at a time", workers: 2, page: 8, part: 1, trim: 1, fill: 1, reads: 2, think: time.Millisecond},
	{name: "batches", workers: 3, page: 1, many: 8, part: 1, trim: 1, fill: 1, reads: 3},
	everything,
	{name: "zeros", workers: 2, page: 2, part: 1, trim: 4, fill: 4, reads: 2},
	{name: "readers", workers: 4, page: 1, many: 1, part: 1, trim: 1, fill: 1, reads: 10, think: time.Millisecond},
}

// undo is what a life does that begins by zeroing and trimming what an op before it
// failed to write.
var undo = style{name: "zeros over what failed", workers: 1, fill: 3, trim: 3, undo: true}

// start lets workers do n ops each.
func (l *life) start(s *style, n int) {
	for range s.workers {
		l.workers++
		r := rand.New(rand.NewPCG(l.seed, uint64(l.n)<<8|l.workers|1<<32))
		l.wg.Go(func() {
			for k := 0; k < n && !l.stop.Load() && !l.w.crashed(); k++ {
				l.one(s, r)
				if s.think > 0 && r.IntN(3) == 0 {
					time.Sleep(time.Duration(r.Int64N(int64(s.think))))
				}
			}
		})
	}
}

// pick chooses a page: often one of a few, or one of which a write failed.
func (l *life) pick(s *style, r *rand.Rand) int {
	l.mu.Lock()
	failed := l.failed
	l.mu.Unlock()
	switch {
	case len(failed) > 0 && (s.undo || r.IntN(3) == 0):
		return failed[len(failed)-1-r.IntN(min(4, len(failed)))]
	case r.IntN(5) == 0:
		return l.hole(r)
	case r.IntN(2) == 0:
		return r.IntN(min(8, l.pages))
	}
	return r.IntN(l.pages)
}

// hole chooses a page where nothing is stored, if it finds one.
func (l *life) hole(r *rand.Rand) int {
	p := r.IntN(l.pages)
	at := int64(p) * raid.PageSize
	for _, e := range l.v.Extents(at, int64(l.pages-p)*raid.PageSize, 2, nil) {
		if e.Hole {
			return int(at / raid.PageSize)
		}
		at += e.Len
	}
	return p
}

// one does one op of a worker.
func (l *life) one(s *style, r *rand.Rand) {
	p := l.pick(s, r)
	n := 1 + r.IntN(min(l.pages-p, 1<<r.IntN(7)))
	first := cell(p * cellsPerPage)
	x := r.IntN(s.page + s.many + s.part + s.fill + s.trim + s.reads)
	under := func(weight int) bool { x -= weight; return x < 0 }
	switch {
	case under(s.page):
		l.write(first, cellsPerPage, 0, true)
	case under(s.many):
		l.write(first, n*cellsPerPage, 0, true)
	case under(s.part):
		from := r.IntN(cellsPerPage)
		l.write(first+cell(from), 1+r.IntN(min(2*cellsPerPage, l.pages*cellsPerPage-int(first)-from)), 0, true)
	case under(s.fill):
		switch {
		case s.undo:
			l.write(first, cellsPerPage, 0, false)
		case r.IntN(3) == 0:
			l.zero(first+cell(r.IntN(cellsPerPage)), r, n)
		case r.IntN(2) == 0:
			l.write(first, cellsPerPage, 0, false)
		default:
			l.write(first, n*cellsPerPage, value(r.IntN(3)), false)
		}
	case under(s.trim):
		if r.IntN(2) == 0 {
			n = 1
		}
		l.trim(first, n)
	default:
		l.read(first, n)
	}
}

// write stamps cells, or fills them with a byte.
func (l *life) write(first cell, n int, v value, stamp bool) {
	off, end := first.offset(), (first + cell(n)).offset()
	o := l.judge.begin(fmt.Sprintf("life %d: write of %d bytes at %d", l.n, end-off, off), v, stamp, first, n)
	b := make([]byte, end-off)
	for c := first; c < first+cell(n); c++ {
		o.value.put(c, b[c.offset()-off:(c+1).offset()-off])
	}
	began := time.Now()
	_, err := l.v.WriteAt(b, off)
	l.finish(o, began, err)
}

func (l *life) trim(first cell, pages int) {
	off := first.offset()
	o := l.judge.begin(fmt.Sprintf("life %d: trim of %d pages at %d", l.n, pages, off), 0, false, first, pages*cellsPerPage)
	began := time.Now()
	l.finish(o, began, l.v.Trim(off, int64(pages)*raid.PageSize))
}

func (l *life) zero(first cell, r *rand.Rand, pages int) {
	n := min(1+r.IntN(cellsPerPage*pages), l.pages*cellsPerPage-int(first))
	off, end := first.offset(), (first + cell(n)).offset()
	o := l.judge.begin(fmt.Sprintf("life %d: zeroing of %d bytes at %d", l.n, end-off, off), 0, false, first, n)
	began := time.Now()
	l.finish(o, began, l.v.Zero(off, end-off))
}

// finish notes how an op ended. What was answered after the client lost its power
// nobody has heard.
func (l *life) finish(o *op, began time.Time, err error) {
	l.judge.end(o, err == nil && !l.w.crashed())
	if err != nil {
		l.noteFailed(o)
		l.judgeError(o.what, o.begin, began, -1, err)
	}
}

// noteFailed remembers the pages of an op that failed.
func (l *life) noteFailed(o *op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := o.first; c < o.first+cell(o.n); c += cellsPerPage {
		l.failed = append(l.failed, c.page())
	}
	l.failed = l.failed[max(0, len(l.failed)-32):]
}

// read reads pages and has them judged.
func (l *life) read(first cell, pages int) {
	at, began := l.judge.time(), time.Now()
	b := make([]byte, pages*raid.PageSize)
	_, err := l.v.ReadAt(b, first.offset())
	if l.replaced.Load() || l.w.crashed() {
		return // it may be older by now: docs/architecture.md, Takeover
	}
	if err != nil {
		l.judge.readFailed()
		page := first.page()
		if pages > 1 {
			page = -1 // any of them
		}
		l.judgeError(fmt.Sprintf("life %d: read of %d pages at %d", l.n, pages, first.offset()), at, began, page, err)
		return
	}
	for _, f := range l.judge.read(at, first, pages*cellsPerPage, b) {
		l.fail(f.kind, "life %d: %s", l.n, f.text)
	}
}

// judgeError decides whether an op might fail. It might
//
//   - when the client has crashed, is being closed, or was replaced;
//   - while, since everything was healed last, more than M different servers
//     were out, lied or lost what they held, provided that it waited for as long
//     as the patience where all may come back, and that nobody could read the page
//     meanwhile. page is the one that was read, or -1.
func (l *life) judgeError(what string, began tick, since time.Time, page int, err error) {
	took := time.Since(since)
	if l.w.crashed() || l.ending.Load() || l.replaced.Load() {
		return
	}
	excused, harm := l.excused(began)
	switch {
	case !excused:
		l.fail(Error, "%s failed, although at most %d members were out: %v", what, l.geo.M, err)
	case !harm && took < patience*9/10 && (errors.Is(err, client.ErrLost) || errors.Is(err, client.ErrNoSpace)):
		l.fail(Early, "%s failed after %v, although all may come back and the patience is %v: %v", what, took, patience, err)
	case page >= 0 && l.judge.rewritten(page, time.Now().Add(-500*time.Millisecond), began, l.changed()):
		l.fail(Passed, "%s failed, although its page was written anew and could be read for long: %v", what, err)
	}
}

// audit reads the whole volume.
func (l *life) audit() {
	for p := 0; p < l.pages; {
		n := min(24, l.pages-p)
		l.read(cell(p*cellsPerPage), n)
		p += n
	}
}

// readHoles reads where nothing is stored until the volume is closed. Reads of
// anything else would hold buffers, and Close says that it cannot end then.
func (l *life) readHoles() {
	var off, n, at int64
	for _, e := range l.v.Extents(0, int64(l.pages)*raid.PageSize, l.pages, nil) {
		if e.Hole && e.Len > n {
			off, n = at, e.Len
		}
		at += e.Len
	}
	for range 3 {
		if n == 0 {
			return
		}
		l.wg.Go(func() {
			debug.SetPanicOnFault(true)
			defer func() {
				if p := recover(); p != nil {
					l.fail(Crash, "life %d: reading a hole while the volume is closed: %v", l.n, p)
				}
			}()
			b := make([]byte, n)
			for {
				if _, err := l.v.ReadAt(b, off); err != nil {
					return
				}
			}
		})
	}
}

// storm reads many pages many times at once, again and again for a time.
func (l *life) storm(readers int, d time.Duration) {
	end := time.Now().Add(d)
	n := min(l.pages, 64)
	for i := range readers {
		r := rand.New(rand.NewPCG(l.seed, uint64(l.n)<<8|uint64(i)|1<<33))
		l.wg.Go(func() {
			b := make([]byte, n*raid.PageSize)
			for k := 0; !l.stop.Load() && !l.w.crashed(); k++ {
				if p := r.IntN(l.pages - n + 1); k%8 == 0 {
					l.read(cell(p*cellsPerPage), n)
				} else {
					_, _ = l.v.ReadAt(b, int64(p)*raid.PageSize) // only for the load
				}
				if !time.Now().Before(end) {
					return
				}
				time.Sleep(time.Duration(r.Int64N(int64(time.Millisecond))))
			}
		})
	}
}
