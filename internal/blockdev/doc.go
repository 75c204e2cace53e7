// Package blockdev asks the kernel about block devices, who uses one, and keeps it
// from throttling those that are swapped to. What may wait for a device it has done by
// another process, since the one that asks may be the one that serves it (Apart).
package blockdev
