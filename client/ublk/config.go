package ublk

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"

	"dmps/client"
)

// AnyID lets the driver choose the number of the device.
const AnyID = -1

// Config of a Server. Zero values of the sizes mean the defaults.
type Config struct {
	// Device is served. It is the caller's to close, after the Server ended.
	Device client.Device
	// Identity tells the volume from all others, also from one of the same name
	// that was there before. A device that waits for a server goes to the one
	// whose identity it was made with.
	Identity string
	// ID is the N of /dev/ublkbN, or AnyID.
	ID int
	// Queues is how many threads serve requests: one a processor, but at most
	// four. The driver makes at most one a processor of it.
	Queues int
	// Depth is how many requests a queue has in flight at most.
	Depth int
	// MaxIO is the most bytes of a read or write, a multiple of the page size.
	MaxIO int
	Log   *slog.Logger // nil: slog.Default()
}

const (
	maxQueues    = 4 // more threads only contend for the volume
	defaultDepth = 64
	defaultMaxIO = 128 << 10 // what a member is sent at a time
)

func (c *Config) fill() error {
	var errs []error
	switch {
	case c.Device == nil:
		return errors.New("serving a ublk device: no device")
	case c.Identity == "":
		errs = append(errs, errors.New("no identity"))
	case c.Device.Size() <= 0 || c.Device.Size()%pageSize != 0:
		errs = append(errs, fmt.Errorf("a size of %d bytes", c.Device.Size()))
	}
	def := func(v *int, n int) {
		if *v == 0 {
			*v = n
		}
	}
	def(&c.Queues, min(runtime.NumCPU(), maxQueues))
	def(&c.Depth, defaultDepth)
	def(&c.MaxIO, defaultMaxIO)
	if c.ID < AnyID || c.ID >= 1<<20 {
		errs = append(errs, fmt.Errorf("no device has the number %d", c.ID))
	}
	if c.Queues < 0 || c.Queues > maxDepth {
		errs = append(errs, fmt.Errorf("%d queues: 1 to %d", c.Queues, maxDepth))
	}
	if c.Depth < 0 || c.Depth > maxDepth {
		errs = append(errs, fmt.Errorf("%d requests a queue: 1 to %d", c.Depth, maxDepth))
	}
	if c.MaxIO < pageSize || c.MaxIO > maxIOPages*pageSize || c.MaxIO%pageSize != 0 {
		errs = append(errs, fmt.Errorf("%d bytes a request: %d to %d, in pages", c.MaxIO, pageSize, maxIOPages*pageSize))
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("serving a ublk device: %w", err)
	}
	return nil
}

// maxIOPages bounds MaxIO: preadv(2) takes UIO_MAXIOV pieces, a page each.
const maxIOPages = 1024
