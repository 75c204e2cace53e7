// Package loadgen puts load on a block device and measures how it answers.
//
// A Job says what is asked: reads or writes, at random or in order, how large
// and how many at a time. Run carries it out on any Device and returns a Result:
// rates, and a Histogram of how long the requests took.
//
// Load is closed: each of Depth workers sends its next request when the last one
// was answered, so the latencies are those of a device that is kept busy, not
// those of arrivals at a fixed rate.
//
// Data holds bytes that no device can skip: no page of it is all one value, and
// no two pages are the same.
package loadgen
