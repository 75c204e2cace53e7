// Package rails makes one session of several with the same memory server, one
// for each of its addresses: rails, as in multi-rail networks. Requests go to the
// rail with the fewest bytes in flight, small ones some in a row; when a rail dies
// they go on over the others, and it is dialled again in the background. Nobody
// above notices.
//
// The hard part is a write on a rail that died: it may lie in a socket of the
// server's, and land there after newer ones. It is neither completed nor sent
// again before the server has ended that rail's session, which another rail's
// address is asked for (transport.Rail, with Join): the welcome says that nothing
// of the old one can land any more. Then it is sent again, the same bytes to the
// same slots, and what it was asked for is done exactly once as far as anybody can
// see. Reads go elsewhere at once: the Conn that gave one up touches its memory no
// more.
//
// The rails of a session that only reads are sessions of their own to the server, and
// nothing of them has to be ended there.
//
// A rail that is silent while another one answers is ended the same way, first at
// the server. One that cannot be ended, since the server as a whole is frozen, is
// left alone, and whoever uses the session suspects the server, as without rails.
//
// Read conn.go, then rail.go, watch.go.
package rails
