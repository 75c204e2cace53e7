package client

import (
	"sync/atomic"

	"dmps/raid"
)

// Buf is one page buffer of the arena: locked memory outside the Go heap,
// registered with the transport.
type Buf struct {
	Page []byte // PageSize bytes

	hdr  []byte // room for the slot header that travels with the page
	home *pool  // nil: a constant page, which everybody may read for ever
	held atomic.Bool

	// What follows is the broker's while the buffer is a pending page-out,
	// guarded by Volume.mu.

	page   raid.PageNo
	op     *Op
	state  bufState
	fill   byte
	filled bool   // every byte of the page is fill: it becomes a note
	lo, hi uint16 // bytes that the front end wrote; the rest comes from the page's old content
	newer  *Buf   // next version of the same page; it waits for this one
	next   *Buf   // in the queue of the coalescer
	hash   *Buf   // in the chain of the pending table
	reads  *unit  // page-ins that wait until the page is stored
}

// bufState is how far a page-out has come.
type bufState uint8

const (
	bufMerging  bufState = iota // its old content is being fetched, to complete a sub-page write
	bufWaiting                  // whole; an older version of the page is under way
	bufQueued                   // whole; the coalescer has it
	bufInFlight                 // in a batch
)

// whole reports whether the buffer holds the complete page.
func (b *Buf) whole() bool { return b.state != bufMerging }
