// Package doctor looks at a machine that is to swap to dmps and says what is
// wrong with it, why that matters, and how to mend it.
//
// The nouns: a Host is what is looked at (host.go), a Finding is what one check
// says. The checks are in the order in which things are needed: kernel.go,
// rights.go, memory.go, device.go.
//
// Nothing is changed: every check reads.
package doctor
