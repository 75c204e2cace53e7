package client

// opState is what the broker keeps in an Op while it owns it.
type opState struct{}
