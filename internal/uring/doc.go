// Package uring drives one io_uring of the kernel's without cgo: as much of it
// as passthrough commands (IORING_OP_URING_CMD) to a driver take.
//
// A Ring is the pair of queues that io_uring_setup(2) makes. Its user fills an
// SQE that Next gave, calls Enter, and takes what Pop finds. Nothing of this
// allocates, and nothing is safe for use on several goroutines at once. A ring
// with SingleIssuer belongs to the operating system thread that made it: lock
// the goroutine to its thread first (runtime.LockOSThread).
//
// Sources: io_uring_setup(2), io_uring_enter(2), include/uapi/linux/io_uring.h.
package uring
