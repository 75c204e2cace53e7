// Package ublk is the front end that serves a client.Device as a block device,
// /dev/ublkbN, through the kernel's ublk driver.
//
// The nouns: a Server has queues; each queue has a thread, which nothing else
// uses, and a port, its ring and its part of the character device /dev/ublkcN;
// each tag of a queue has a call, which is one request at a time. The kernel is
// what a Server needs of the driver: the real one is driver and queuePort, the
// tests have one of their own.
//
// The path of a request (queue.go says it in order):
//
//  1. the thread takes a completion out of its ring and decodes the descriptor
//     that the driver left in shared memory (desc.go);
//  2. for a write it takes page buffers of the arena and lets the driver copy
//     into them (preadv on the character device): the only copy;
//  3. it Submits and Kicks;
//  4. whichever goroutine of the device completes the Op puts the call into the
//     queue's list (list.go), and wakes the thread if it sleeps;
//  5. the thread lets the driver copy the pages of a read out of the buffers,
//     gives them back and commits;
//  6. one system call sends the commits and waits for more.
//
// # Why the copy is made this way
//
// The driver can copy into one buffer that each tag has for good, or on demand
// between the request and any memory (UBLK_F_USER_COPY). The Device wants pages
// of the arena, and hands back pages that are anywhere, shared ones too: with
// buffers by tag every byte would be copied a second time. On demand costs one
// more system call a request, and none of its pages.
//
// # When the client is killed
//
// The device stays (UBLK_F_USER_RECOVERY, _REISSUE): requests wait, those that
// were not answered are asked again when a client of the same volume goes on
// with it (recover.go). Whose a device is, the kernel knows itself (identity.go).
//
// A client that waited for its own device when it is killed could not end. So the
// kernel is kept from looking for partitions (noscan.go), and another process makes
// the calls that can wait for the device (blockdev.Apart).
//
// # Caveats
//
// The driver takes commands for a queue only from one thread, which therefore
// must never wait for anything but its ring: poor.go is what it does without
// page buffers. The Go scheduler needs a processor of its own for each thread in
// the kernel, or other goroutines wait until it notices (Procs).
//
// Sources: Documentation/block/ublk.rst, include/uapi/linux/ublk_cmd.h and
// drivers/block/ublk_drv.c of Linux 6.12; docs/ublk.md for how to use it.
package ublk
