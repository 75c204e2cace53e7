// Package swapctl makes a block device swap space, and ends that.
//
// The nouns: a Header is the first page of swap space (header.go), a Space is
// one that the kernel uses (space.go); On and Off are the system calls (call.go).
//
// Nothing but call.go changes the machine that it runs on.
package swapctl
