// Package tcp carries sessions over TCP: [Dialer] on the client's machine,
// [Server] on a memory server. docs/wire.md has the bytes.
//
// Each side has one goroutine a connection, which reads. Heads are parsed in
// the stage of a stream.Reader; pages go straight to where they belong: on the
// server into the arena's slots, on the client into the request's buffers.
// Replies to reads are sent from the arena with writev. Both sides flush when
// their input has run dry, so that a batch costs one system call each way.
//
// Read frame.go, then session.go (server) and conn.go (client).
package tcp
