// Package stream is the byte-stream engine under everything here that speaks
// over a socket: both sides of the TCP transport and the NBD front end.
//
// A [Reader] parses small things (frame heads, slot headers) from a staging
// buffer and reads large things (pages) straight into the memory they belong
// to: readv fills the page buffers and, with what is left, the stage, so that
// the heads that follow arrive in the same system call.
//
// A [Writer] takes frames from any goroutine: small bytes are encoded into its
// staging blocks, pages are referenced where they lie. Flush sends all of it
// with writev in the caller's goroutine, as far as the socket takes it without
// blocking. What does not fit is left to one goroutine that waits for the
// socket. A Flush that meets another Flush leaves its frames to that one:
// group commit.
//
// Neither allocates in steady state. System calls are made on the descriptor
// itself (syscall.RawConn) with vectors that live in the Reader and Writer;
// waiting is done by the runtime's network poller, so a blocked Reader costs a
// parked goroutine, not a thread. The calls are raw ones: the descriptors are
// non-blocking, so that a call lasts as long as its memory copy, and the
// scheduler need not be told.
//
// Nothing spins. Trying a read 40 times before parking was measured on two
// cores with client and server on one machine: the p50 of a 4 KiB read went
// from 20 to 68 us, since the spinner holds the core that its answer needs.
//
// Ownership: memory given to ReadInto belongs to the Reader until it returns.
// Memory given to Writer.Ref belongs to the Writer until the frame's
// [Releaser] was told or Taken has passed the frame's end; after Close has
// returned, nothing is referenced any more.
//
// Read reader.go, then writer.go.
package stream
