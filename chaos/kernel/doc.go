// Package kernel runs dmps under a real kernel that swaps to it, in a guest,
// and breaks it there.
//
// The nouns: a Spec says what a guest is made of and what it runs (spec.go); a
// Job is that as the guest reads it (job.go). Packages: image finds a kernel and
// makes the initrd, vm boots it, guest is /init and the programs in there, and
// scenario is what they do, each scenario a function. The tests of this package
// run the scenarios, one guest each.
//
// docs/kernel.md tells how to run them and what they show.
package kernel
