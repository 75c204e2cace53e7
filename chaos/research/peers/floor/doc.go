// Package floor moves the bytes of a block device over the hops that dmps has,
// and does nothing else: what a program in Go over sockets can reach at best on
// a machine. It is no product: it checks nothing and recovers from nothing.
//
//   - Store is a memory server: a slice behind TCP.
//   - Relay is a client: NBD in front, Stores behind. A write goes to the
//     members that a batch of dmps goes to, as many bytes to each; a read asks
//     one. No page map, no headers, no checksum, no coding, no deadline.
//
// It uses package transport/stream, as dmps does: one system call takes what
// there is, one sends what has gathered, and nothing is copied in between.
//
// What a Relay keeps is not what was written (parity members get data), so a
// device behind it is good for measuring only.
package floor
