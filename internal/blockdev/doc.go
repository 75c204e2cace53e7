// Package blockdev asks the kernel about block devices: who uses one.
package blockdev
