// Package raftlog keeps Raft's log and votes of one metadata node in a bbolt file.
//
// Nouns, in reading order:
//
//   - A Store is the file: a raft.LogStore and a raft.StableStore.
//   - An entry is one raft.Log as it lies in the file (entry.go).
//
// One call is one transaction: what it stores is on the disk, as a whole, when it
// returns. The file carries the version of its format; another version is refused.
package raftlog
