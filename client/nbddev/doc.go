// Package nbddev is the front end that serves a client.Device as a block device
// of this machine's kernel, through its nbd driver.
//
// The nouns: a Driver speaks the driver's generic netlink protocol (driver.go,
// after include/uapi/linux/nbd-netlink.h); a Front keeps one device connected
// (front.go); queue.go sets the device's queue.
//
// A connection is a pair of unix sockets: the kernel has one end, package nbd
// serves the other. Unix sockets, because they have no timers, no windows and
// no retransmission that could want memory at the wrong moment: what the kernel
// sends lies in its own buffers until the client has read it.
//
// What happens when the client goes away decides what a swap device is worth.
// Its sockets close; the kernel marks them dead and holds requests back for the
// dead-connection time (Config.DeadTimeout). The next client finds the device
// connected, hands in new sockets (NBD_CMD_RECONFIGURE), and the kernel goes on.
// A request that was in flight is sent again when its time-out (Config.Timeout)
// fires; that is the longest that a restart shows.
//
// A request that was not answered within its time-out is sent again as well,
// on a new connection, while the first may still be on its way through the
// client. That is safe because with one connection the client has read the old
// one to its end before it makes the new one: what was read first is older, for
// the volume too. With several connections that order is not kept, see
// Config.Connections.
package nbddev
