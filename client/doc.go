// Package client is the side of dmps that pages: it turns a volume's memory on
// other machines into a block device.
//
// Four nouns matter. A Device is what front ends serve (package client/nbd, or
// a program through ReadAt and WriteAt); an Op is one request of theirs. A
// Volume is the Device that is real: the paper's Broker, which drives the
// translator (package raid) and the Communicator (package transport). A Buf is
// a page buffer of the arena, the only place where pages are in this process:
// locked, outside the Go heap, bounded (I7, I8).
//
// # A page-out
//
//	front end   Alloc, fill, Submit                         device.go, submit.go
//	broker      same-filled? pending table, queue           submit.go, pending.go
//	coalescer   what waits becomes a batch of up to 32 rows pageout.go
//	translator  raid.Log.Reserve: rows of one group
//	coder       checksums, headers, parity; no lock held    batch.go
//	transfers   one a member, all at once                   peer.go, xfer.go
//	commit      all have answered: map, answers             pageout.go
//
// A member that fails makes its batch be placed again; the buffers are kept
// until then. An Op is answered when every member that the headers of its rows name
// has it, and more than M know of it (I1). A lease that is over: lapse.go.
//
// # A page-in
//
//	pending table: wait for it; else map, else zeros        pagein.go
//	one transfer for neighbours on one member
//	header and checksum are verified (I2), then answered
//
// When the member is down, slow or wrong the page is rebuilt from K others
// (rescue.go, watch.go); when too few are up it waits for as long as it has
// patience for members that may come back, and ends with ErrLost (stall.go). Sources
// that contradict each other are left out one by one (distrust.go), and servers that
// fall silent again and again for a time (probation.go).
//
// # Members that are lost
//
//	meta gives a lost member another chunk                  relayout.go
//	a living one is moved                                   moving.go
//	meta notes who misses rows that few others hold         thin.go
//	the servers fill it from each other, from row lists     rebuild.go
//	how fast they may, and how it goes                      heal.go, guard.go
//	who was away is compared with the map when it returns   compare.go
//	everything is verified now and then, and repaired       scrub.go, scrub_settle.go, scrub_guard.go
//
// # After a crash
//
//	views, then slot headers, then notes give the map       recover.go
//	what was not settled is, and each group gets a view     view.go
//	what was dropped, and dead partial rows, are erased     erase.go
//
// No page is served before that is settled, so that what was read once stays. Every
// operation that was answered is there. One that was not answered may be
// there or not, page by page; a page is never a mixture, nor older than what was
// answered last. Trimmed pages may come back as zeros or with their last content.
//
// # What runs
//
// Nobody waits on the page path: the front end's goroutine forms and sends
// batches in Kick, the transport's goroutines complete them, and whoever
// completes starts what that made possible (pump). Each server has a goroutine
// that keeps its session (peer.run), the watch looks for what takes too long,
// the rebuild driver fills members that miss rows, the guard holds it back, the
// eraser erases dead rows that matter, and keepLease reports to meta.
//
// Read in this order: device.go, op.go, volume.go, open.go, submit.go, pageout.go,
// batch.go, pagein.go, rescue.go, distrust.go, stall.go, members.go, probation.go, watch.go, hedge.go,
// lapse.go; then clean.go, tidy.go, trim.go,
// recover.go, view.go, compare.go, erase.go, report.go, thin.go, relayout.go, moving.go,
// rebuild.go, heal.go, guard.go, scrub.go, scrub_settle.go, scrub_guard.go,
// scrub_schedule.go, inplace.go.
package client
