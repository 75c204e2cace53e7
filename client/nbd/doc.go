// Package nbd is the front end that serves a client.Device to NBD clients, on
// TCP and on unix sockets.
//
// The nouns: a Server has Exports, by name; it accepts connections; each
// connection first negotiates (handshake.go, a plain function of bytes in and
// bytes out) and then carries requests.
//
// The path of a request (conn.go, in the order in which it happens):
//
//  1. the connection's only goroutine reads a header out of its stage,
//     validates it (request.go) and refuses it there and then, or
//  2. takes a call from the connection's pool, for a write fills page buffers
//     of the device's arena straight from the socket, and Submits;
//  3. when the stage has run dry it Kicks the device, flushes the replies
//     that are there, and only then blocks in a read;
//  4. whichever goroutine of the device completes the call appends the reply
//     to the connection's stream.Writer (reply.go): header bytes are copied,
//     pages are referenced;
//  5. the device's OnIdle flushes the batch. That never blocks: what a slow
//     peer does not take is left to the writer's own goroutine;
//  6. pages go back to the arena, and the call to the pool, when the socket
//     has taken the reply.
//
// Nothing on this path allocates in the steady state, and a page is copied at
// most once: out of the stage, when its bytes came along with the header.
//
// Caveats. Requests of one connection are answered in the order in which they
// complete. A client that does not read its replies is not read from once its
// share (Config.Depth, Config.Window) is used up. There is no authentication
// and no TLS: who can connect can read and write. The place for it is
// NBD_OPT_STARTTLS in handshake.go, refused today with NBD_REP_ERR_POLICY;
// until then serve on a unix socket or on loopback.
//
// Read request.go for what is accepted, errno.go for what errors become, and
// docs/nbd.md for how to connect with the usual clients.
package nbd
