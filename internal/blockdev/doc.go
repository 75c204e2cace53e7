// Package blockdev asks the kernel about block devices, who uses one, and keeps it
// from throttling those that are swapped to.
package blockdev
