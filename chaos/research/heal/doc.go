// Package heal measures what failures and rebuilds cost, with real processes:
// page-in latency while nothing is missing, with members dead, and during a
// rebuild, with the foreground guard and without; how fast a rebuild is beside a
// plain TCP stream of the same run; and the longest request at each of many
// faults.
//
// A Plan says what to do; Run gives a Report, which prints as a table and as
// JSON. Command chaos/research/heal/cmd/heal is its command line, docs/measuring.md says
// how to read it.
package heal
