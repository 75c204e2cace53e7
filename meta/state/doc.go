// Package state is what the metadata service decides, without the service: the
// plain State of a cluster, the Commands that change it, and the invariants
// that hold between them. It is pure: no clock, no random numbers, no I/O. What
// a command needs of either travels inside it, so that every replica comes to
// the same result.
//
// Nouns: State holds Servers (who lends memory), Volumes with their Groups (who
// lends which chunk to whom) and Leases, and the meta Nodes. A Command is one
// change; State.Apply carries it out as a whole or refuses it with a *Refusal
// and changes nothing. Touched says which records a command changed, so that a
// store writes only those. State.Check walks every invariant.
//
// Reading order: state.go, command.go, then servers.go, volumes.go and lease.go
// for the commands, member.go, heal.go, pick.go, drain.go, shortage.go,
// balance.go and behind.go for members that are replaced, moved or overtaken,
// care.go for volumes that nobody has attached, raise.go for the cluster's level, events.go for what is told of it, recover.go for a state from a
// backup, size.go and place.go for where a volume's chunks come to
// lie, copysets.go for the index and home.go for members that go home, risk.go and
// health.go for what status says, check.go.
package state
