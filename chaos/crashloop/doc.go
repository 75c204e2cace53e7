// Package crashloop crashes the clients of a small volume again and again, cuts
// servers off, makes them lose what they hold or lie, and compares every page that
// is read with a plain model. Real clients and real memory servers run in one
// process, over transport/mem, in the virtual time of testing/synctest: some
// dozen lives of a client a second.
//
// The nouns: a run is what one seed does; a life is one client, from Open until it
// is closed, crashes, or is replaced; a box is a memory server and its machine; a
// wire is the network as one client sees it, with gates that may be shut; the
// judge knows what each cell, a part of a page, may read as.
//
// Never more than M servers are out or harmed at a time, but for blackouts, in
// which any number is out for a while and loses nothing. A server is harmed, which
// stays until it is healed, only when with it no more than M were out since
// everything was healed last: rows that an absent server misses and a lying one had
// are gone, and nobody can help that.
//
// What is judged, always: a page reads as its last answered content or as that of an
// op that was under way or failed since; never as something older, also not older than
// what was read before; never as a mixture or as another page. Reads of a client that
// is being replaced are not judged.
//
// Errors and refusals are judged by how many different servers were out or harmed
// since everything was healed last. Were it M or fewer, no op may fail and no Open
// may be refused. Were it more, both may, and are counted; but not before the
// patience is over while nobody has lost anything, and not once all are back, unless
// those that are harmed and those that are still being rebuilt are more than M.
//
// At the end all come back, everything heals, a scrub finds nothing, and every
// page is read.
//
// What is not: layouts in place, moves of living members, the metadata service (the
// part of it that counts is modelled in meta.go), more than one volume.
//
// Read in this order: run.go, life.go, work.go, judge.go, content.go; then
// wire.go, gate.go, server.go, meta.go.
package crashloop
