// Package fabric carries sessions over libfabric: pages and their headers are
// read and written in the server's memory by one-sided transfers. It needs the
// build tag fabric, cgo and libfabric; without the tag [Dialer] takes the
// links alone, and [Server] fails with a text that says so. docs/transport.md has
// the measurements, and what is missing.
//
// A session is two things. The link is a session of package tcp (tcp.Link): the
// handshake, OpenChunk, Rebuild, all of chunks that are InPlace, and requests
// that are small or that the server is to refuse. The endpoint (fi_endpoint(3))
// beside it makes the one-sided transfers. That there is a link, and not
// messages over the fabric, has reasons: addresses of efa and shm cannot be
// dialled, they have to be told first; a provider without connections does not
// notice that a peer has died, a socket does at once; and Goaway says why.
//
//	client: Submit -> plan in slot.go -> ring -> Kick posts -> conn.run polls
//	server: target.run makes progress where a provider needs the CPU for it
//
// A write is done when its bytes are in the server's memory
// (FI_DELIVERY_COMPLETE): the slots are erased, then come the pages, then the
// headers that vouch for them. Headers without pages are written at once. With a provider that keeps the order of writes
// (FI_ORDER_WAW) all are posted at once, where it can be as one operation
// (conn.addWhole), else each part follows when the one before has arrived.
//
// A reader's session maps a chunk when it first reads there, to read only. When the
// server wants the memory back it ends that session (server/expose.go).
//
// The fence: each session has a domain (fi_domain(3)) of its own at the server,
// with an endpoint and the registrations of the chunks that it has opened.
// session.Close closes them before the Backend's session, and Open of a newer
// owner waits for that. Buffers are never in doubt: a session's requests
// complete when its endpoint is closed (conn.finish), after a deadline too.
//
// libfabric sees mapped memory only, never the Go heap. All C is in shim.c: one
// call posts what waits, one call gives up to 64 completions.
//
// Read scheme.go, message.go, dialer.go, eager.go, conn.go, slot.go, conn_run.go (client),
// server.go, target.go (server), endpoint.go, spinner.go, sleeper.go, bell.go, shim.h.
package fabric
