// Package vm boots a kernel of its own in QEMU, under software emulation, and
// tells how it ended: nothing that a guest does to its swap can harm the
// machine that runs it.
//
// A guest ends in one of four ways (Outcome): it says so, with an exit status,
// through QEMU's isa-debug-exit device; its kernel panics; it powers off or
// reboots without a word; or its time runs out. Only the first, with status 0,
// is a success.
package vm
