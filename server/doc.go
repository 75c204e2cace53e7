// Package server is a memory server: a daemon that lends its machine's memory
// to volumes, a chunk at a time. It is the paper's DMS.
//
// A [Server] maps and locks one arena at start. Chunks are extents of it: the
// pages of all slots, then the headers of all slots. When free memory lies in short
// runs it is put together: see mappings.go. A client's session (see
// transport.Backend, which Server implements) reads and writes the slots of
// its own volume's chunks. A page is received straight into its slot; its
// header is stored only when the page's checksum is the header's. Until then the
// slot is erased, as all are in a new chunk. So a slot is erased or holds what its
// header says, and zeros are memory that was lost. Reads are sent from the arena
// without a copy; what a reader sees of a slot that is being written fails
// its checksum at the client.
//
// The newest owner session of a volume fences all older ones: Open returns
// only when none of them can touch the arena any more.
//
// A session can have slots of its own chunks filled from other servers: see
// rebuild.go for the steps, and for the limits rebuild_pool.go and package internal/pace.
// What is stored by it is subject to the same fence.
//
// On a host that runs short of memory it asks for chunks to be moved away, and
// gives their memory back to the system: see shortage.go.
//
// Meta hears of the server through a [Registrar]; the page path never waits
// for it.
//
// Read server.go, fence.go, session.go, chunk.go, arena.go, extents.go, mappings.go,
// rebuild.go, rebuild_verify.go, shortage.go.
package server
