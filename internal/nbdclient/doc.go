// Package nbdclient is a small NBD client: what the demo writes through, what
// the load generator drives, what the embedded cluster shakes hands with before
// it says that it serves.
//
// The nouns: an Addr says where an export is and prints as an NBD URI; Dial
// makes a Conn, whose methods may be called from any number of goroutines at a
// time. Each call is one request in flight, answered in any order.
//
// It is written against the protocol alone (doc/proto.md of the NBD project)
// and shares no code with the front end of this project, so that the two can
// contradict each other. It speaks fixed newstyle, NBD_OPT_GO and simple
// replies; no TLS, no structured replies.
package nbdclient
