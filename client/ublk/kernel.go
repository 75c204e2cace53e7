package ublk

import (
	"context"
	"errors"

	"dmps/client"
)

// Errors of a kernel that a decision hangs on.
var (
	errNoDevice = errors.New("no such device")
	errNotYet   = errors.New("not yet")  // the old server has not ended: try again
	errBegun    = errors.New("no queue") // a recovery was begun before: go on with it
)

// kernel is what a Server needs of the ublk driver: *driver is the real one. All
// of it may block, and none of it is on the page path.
type kernel interface {
	features() (uint64, error)
	// devices are the ids that are taken.
	devices() ([]int, error)
	// info says what a device is, or errNoDevice.
	info(id int) (devInfo, error)
	limits(id int) (limits, error)

	// add makes a device and returns it as it became: fewer queues, an id.
	add(devInfo) (devInfo, error)
	setLimits(id int, l limits) error
	// start makes the block device. It ends when all requests of all queues
	// were fetched. It reads the partition table from this server, unless the
	// device has featNoPartScan or a queue was fetched by an untrusted thread.
	start(id, pid int) error
	// stop removes the block device, after what is in flight was answered.
	stop(id int) error
	// remove gives the id back. Everything that was opened must be closed.
	remove(id int) error
	// startRecovery makes the queues of a quiesced device anew: errNotYet while
	// the old server is ending, errBegun when no queue is anybody's.
	startRecovery(id int) error
	// unthrottle lets the kernel write whatever reads take. It waits until the
	// device has no request in flight: for one that is new, never for one in use.
	unthrottle(ctx context.Context, id int) error
	// endRecovery lets waiting requests go, once all were fetched.
	endRecovery(id, pid int) error

	// open opens the character device, once at a time.
	open(id int) (file, error)
	// port makes what queue number q talks through. It belongs to the calling
	// thread.
	port(q, depth int) (port, error)
	// untrusted calls f on the calling thread as one that the driver would not
	// read a partition table from.
	untrusted(f func() error) error
	// claim takes the block device for the caller alone. Who uses it otherwise
	// is in the error, which is blockdev.ErrInUse. It waits for the device, not
	// longer than ctx.
	claim(ctx context.Context, id int) (release func() error, err error)
	// path is where the block device is.
	path(id int) string
	// alive says whether a process exists.
	alive(pid int) bool
}

// file is an open character device. The port knows what is behind it.
type file interface{ Close() error }

// port is one queue between the driver and its thread. All but wake belong to
// that thread, and nothing but attach allocates.
type port interface {
	// attach ties the port to the device, once, before anything else.
	attach(file) error
	// fetch asks for a first request with that tag, commit answers the last
	// one and asks for the next. Both go out with enter.
	fetch(tag uint16)
	commit(tag uint16, result int32)
	// enter sends what was asked. With wait it blocks until there is an event.
	enter(wait bool) error
	// next takes an event.
	next() (event, bool)
	// desc is the request that is behind an event.
	desc(tag uint16) ioDesc
	// load copies the data of a write into pages, store the pages of a read to
	// where the kernel wants them. n bytes begin at byte at of the first page.
	load(tag uint16, bufs []*client.Buf, at, n int64) error
	store(tag uint16, bufs []*client.Buf, at, n int64) error
	// wake makes enter return. Any goroutine may call it, it never blocks.
	wake()
	// close ends it: what was fetched goes back to the kernel.
	close() error
}

// event is what happened to a tag.
type event struct {
	tag  uint16
	kind eventKind
	err  error // of eventFailed
}

type eventKind uint8

const (
	eventRequest eventKind = iota + 1 // there is a request
	eventOver                         // there will be none any more: the device was stopped
	eventFailed                       // the driver refused a command
	eventWake                         // somebody called wake
)
