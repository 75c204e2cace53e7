// Package plan says what a chaos run breaks, and when.
//
// The nouns: a Fault is one thing that breaks; a Step is a fault at an offset;
// a Plan is a header (seed, shape of the cluster, duration, budget) and its
// steps. New makes a plan from a seed and nothing else, so the seed repeats it.
// String and Parse are inverses, so a plan can be kept in a file, cut down by
// hand, and run again; docs/chaos.md has the format. Validate reports everything
// that is wrong at once.
//
// The budget: between two heals at most Bear different servers are touched by
// anything that may cost a row a member. A server that was only frozen or cut
// off counts until the next heal, because rows that were written meanwhile miss
// it; one whose memory was damaged counts until it was killed and healed, because
// nobody but a scrub looks at bytes that nobody reads. A takeover touches the servers
// that only the first client reaches.
//
// The package is pure: no clock, no I/O.
//
// Read in this order: fault.go, plan.go, text.go, validate.go, generate.go.
package plan
