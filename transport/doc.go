// Package transport is the Communicator: it moves pages between a client's
// memory and a memory server's, and is the only part that knows the network.
//
// [Dialer] and [Conn] are what a client sees; [Backend] and [Session] are what
// a memory server gives to the server side of a medium. Media: package tcp,
// package fabric (one-sided transfers over libfabric, with a build tag), and
// package mem for tests. All pass the conformance suite of package
// transporttest. Package media chooses one by the address. Package rails makes
// one session of several with the same server, package stream is the socket
// engine under tcp.
//
// A [Request] moves up to [MaxSegs] slots of one chunk. Its memory belongs to
// the Conn from Submit to Done, whatever happens to the session. Kick is the
// doorbell: submit many, kick once.
//
// [Conn].Rebuild moves no page of the caller's: it has one server pull slots
// from others, to fill its own or to verify them.
//
// Read conn.go, then backend.go, rebuild.go.
package transport
