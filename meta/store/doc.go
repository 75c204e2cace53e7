// Package store keeps a state.State in a bbolt file. Every batch of commands
// becomes one transaction: the records that the commands changed and the index
// of the last command are committed together or not at all (promise I9).
// Commands at or below that index are skipped, so that a Raft log may be
// replayed over a state that is ahead of it.
//
// A Store stops at the first failure to write: from then on it applies nothing,
// answers nothing and gives no snapshot, because what is in memory may be ahead
// of what is on disk. A full disk is no such failure: the Store waits until there
// is room, and answers nothing meanwhile, for the same reason.
package store
