// Package nbdtest tests NBD servers from outside: by their URI, whatever is
// behind it.
//
// [Peers] runs the clients that people use (nbdinfo, nbdcopy, nbdsh, fio,
// qemu-img, qemu-io, go-nbd's) against a server, with the corner cases that
// each is good at. [Client] is a small NBD client that gives a test its hands
// on the bytes: any header, any payload, any order. It has its own idea of the
// protocol and shares no code with the server.
package nbdtest
