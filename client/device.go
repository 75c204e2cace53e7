package client

import (
	"context"
)

// OpKind is what a front end asks of a Device.
type OpKind uint8

const (
	OpRead OpKind = iota + 1
	OpWrite
	OpTrim  // forget the bytes; whole pages inside the range read as zeros afterwards
	OpZero  // write zeros over the range, to the byte
	OpFlush // answered when everything answered before it is as safe as it gets
)

// Op is one request of a front end. The front end owns it; between Submit and
// Done it belongs to the Device. Any byte range inside the device is allowed.
//
// Buffers: for OpWrite the front end Allocs the buffers, fills them and hands
// them over with Submit: the Device frees them. For OpRead the Device puts the
// buffers there before Done, and the front end frees them when it has sent
// them; they may be shared or constant pages, so it must not write to them.
//
// Bufs[i] holds page Off/PageSize+i, at the page's own alignment: the first
// byte of the range is Bufs[0].Page[Off%PageSize]. What lies outside the range
// in the first and last page of a write is of no meaning.
type Op struct {
	Kind OpKind
	FUA  bool  // force unit access: every answered write already is; kept for statistics
	Off  int64 // bytes
	Len  int64 // bytes
	Bufs []*Buf

	// Done is called exactly once, on any goroutine, perhaps inside Submit.
	// It must not block and may call Free and Submit. Err is nil, or wraps
	// one of the sentinels of this package.
	Done func(*Op)
	Err  error

	User any // the front end's

	st opState // the Device's
}

// Extent is a run of bytes of one kind, for NBD's base:allocation.
type Extent struct {
	Len  int64
	Hole bool // nothing is stored: reads as zeros without touching a server
	Zero bool // reads as zeros
}

// Device is what a front end serves. *Volume is one.
type Device interface {
	// Size in bytes, a multiple of the page size.
	Size() int64
	// Alloc takes n page buffers from the arena, appending to dst. It blocks
	// until all n are there: this is where back-pressure shows, and the only
	// place. n is at most MaxOpPages. Errors: the device was closed, or ctx.
	Alloc(ctx context.Context, n int, dst []*Buf) ([]*Buf, error)
	// TryAlloc is Alloc that takes nothing and reports false instead of
	// blocking: the front end can flush its replies before it blocks.
	TryAlloc(n int, dst []*Buf) ([]*Buf, bool)
	// Free gives buffers back. Freeing twice panics.
	Free(bufs []*Buf)
	// Submit accepts op and never blocks. Nothing is sent before Kick.
	Submit(op *Op)
	// Kick starts what was submitted. Call it before waiting for more input.
	Kick()
	// OnIdle registers f to be called, on any goroutine, after a batch of
	// Done calls: the place to flush replies. It returns its removal.
	OnIdle(f func()) (remove func())
	// Extents appends a description of [off, off+n) to dst, at most max
	// extents; neighbours differ. It may describe less than n bytes.
	Extents(off, n int64, max int, dst []Extent) []Extent
}

// MaxOpPages bounds one Op: 32 MiB, NBD's customary limit, and a page more
// because a byte range need not be aligned.
const MaxOpPages = 32<<20/4096 + 1
