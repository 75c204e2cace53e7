// Package ledger finds wrong data on a block device: not only corrupted, but
// old, misplaced or half-written data, under concurrent load and failures.
//
// Every block carries its number and its version. A Ledger knows of each block
// which versions were begun and which one is the least that a read may return:
//
//   - a version whose write was answered, from then on, or a later one;
//   - a version that a read has returned, from then on, or a later one: a write
//     of unknown outcome may have happened or not, but cannot be taken back.
//
// Writes to one block never overlap, so versions have one order and the rule
// is exact: a run passes if and only if each block behaved like a register
// (linearizable).
//
// Load drives a device from many goroutines and keeps the Ledger; it records
// how long requests took, and every error. Check reads everything at the end.
// Faults come from outside, while Load runs.
package ledger
