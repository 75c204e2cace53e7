// Package meta is the metadata service of dmps: which memory servers exist, who
// lends which chunks to which volume, who holds the lease. It is asked when
// something is decided and never on the page path.
//
// Start gives a Node: one of the one, three or five processes that hold the
// service together. A Node is a Raft peer (hashicorp/raft: log and votes in
// raft.db, see package raftlog, decisions in state.db, see package store), a listener of the API
// (package metapb) and, while it leads, a reign: what it knows of heartbeats
// and lease expiry, which is not replicated and begins anew with each leader.
//
// The path of a change: API handler (api_*.go) -> propose -> Raft log -> fsm ->
// state.State.Apply in one bbolt transaction. A node that does not lead hands
// API calls on to the one that does (forward.go).
//
// What has members replaced: healer.go. Backup and what follows the loss of a
// majority: api_backup.go, restore.go. Two versions beside each other: raise.go.
//
// How nodes become a cluster, once: bootstrap.go. What keeps foreign nodes
// apart: the handshake in stream.go. What happens when a leader's disk stalls:
// watchdog.go.
//
// Subpackages: level (what a version knows), state (the decisions, pure), store (their file), metapb (the
// API), metaclient (its client).
package meta
