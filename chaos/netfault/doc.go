// Package netfault puts proxies into the TCP connections between roles, and
// breaks them as a plan says: cut one way or both, slower, narrower, reset.
//
// The nouns: a Net knows what is broken now; a front is a listener of it before
// one address of one role; a pipe is one connection through a front, with a way
// each direction. Which role has dialled is known because the front is for it alone
// (Front with a from), or is found out from /proc by the process that has the
// other end of the socket (Owners).
//
// A way that is cut keeps what it was given, the end of the stream too, and
// delivers all of it when the cut is over, as TCP does after a short outage: by
// then the sender may have given up long ago, and what arrives late must do no
// harm. Who dials during a cut is accepted and hears nothing.
//
// Linux only, loopback only.
package netfault
