// Package badmem damages the memory that a memory server lends, by the kernel and
// past the server's process, as bad memory or a bad machine would.
//
// An Arena is that memory, of another process or of this one. Flip changes bytes,
// which no checksum survives. Zero has the server forget everything and not know it.
// Swap and Put leave slots that are sound by themselves and wrong all the same: those
// of other places, and those of an earlier time. The server has no part in any of it
// and no way to be asked for it.
//
// It is for tests and chaos runs. Linux only.
package badmem
