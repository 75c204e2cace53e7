// Package scenario is what happens in a guest: a cluster of real dmps processes,
// a device, something that uses it, and faults.
//
// The nouns: a Scenario has a name and a function of a Guest; a Guest starts
// processes (process.go) and ends them; a cluster is metadata, memory servers, a
// volume and its attach (cluster.go); a hog wants more memory than there is, and
// knows what it wrote (hog.go); a kmsg listens to the kernel's log, in which the
// word of an I/O error is a failure (kmsg.go).
//
// Everything here runs as root in a machine that may be lost, and nowhere else:
// the program guest sees to that.
package scenario
