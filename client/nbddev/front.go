package nbddev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"dmps/client/nbd"
	"dmps/internal/blockdev"
)

// ErrTooOld: the kernel does not keep whose a device is (before Linux 5.14).
var ErrTooOld = errors.New("the kernel cannot tell a volume's device from others")

// Config is a device to be.
type Config struct {
	// Path is /dev/nbdN, or "nbd" for the first device that is free.
	Path string
	// Identifier is what the device holds: only a client with the same one
	// takes the device over from one that is gone. Required.
	Identifier string
	// Export is what is served.
	Export nbd.Export

	// Connections is the number of sockets. Default 1. With more, a request
	// that is sent again after its time-out may overtake its first copy.
	Connections int
	// Timeout is after how long the kernel gives up a connection with a request that
	// was not answered. It sends all of them again on the next one, which is made when
	// the old ones are over: one that waits for servers holds the device for as long
	// as the client lets it. Default DefaultTimeout.
	Timeout time.Duration
	// DeadTimeout is how long the kernel waits for a client to come back before
	// it fails requests. Default DefaultDeadTimeout.
	DeadTimeout time.Duration

	Log *slog.Logger // default: nothing is logged
}

// Default times of a Config.
const (
	DefaultTimeout     = 15 * time.Second
	DefaultDeadTimeout = time.Hour
)

// Front keeps a device connected, from Start to Close.
type Front struct {
	cfg    Config
	conn   Connection // without Sockets
	log    *slog.Logger
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	served sync.WaitGroup
	on     machine

	claimed blockdev.Reservation

	placed chan struct{} // closed when conn.Index is the device's
	failed chan struct{} // closed when the device is this front's no more

	mu     sync.Mutex // holds the driver, while connections are kept
	driver *Driver
	live   map[net.Conn]struct{} // connections that are served
	err    error                 // why failed is closed
}

// machine is what a Front needs of one beside the driver.
type machine struct {
	sysfs string
	pair  func() (kernel *os.File, ours net.Conn, err error)
	claim func(ctx context.Context, path string) (release func() error, err error)

	patience time.Duration // for who has a device open that was disconnected
}

var thisMachine = machine{sysfs, Pair, blockdev.Claim, 5 * time.Second}

// Start connects the device, or takes it over when it is connected to the same
// volume by a client that is gone. A volume never gets a second device. Errors:
// ErrNoDriver, ErrTooOld, ErrBusy, ErrElsewhere; ErrGone, when it was disconnected
// while somebody uses it.
func Start(ctx context.Context, cfg Config) (*Front, error) {
	d, err := OpenDriver()
	if err != nil {
		return nil, err
	}
	f, err := start(ctx, cfg, d, thisMachine)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return f, nil
}

func start(ctx context.Context, cfg Config, d *Driver, on machine) (*Front, error) {
	index, err := ParsePath(cfg.Path)
	if err != nil {
		return nil, err
	}
	if cfg.Identifier == "" {
		return nil, errors.New("nbd device: no identifier")
	}
	if cfg.Connections == 0 {
		cfg.Connections = 1
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.DeadTimeout == 0 {
		cfg.DeadTimeout = DefaultDeadTimeout
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	f := &Front{cfg: cfg, log: cfg.Log, on: on, placed: make(chan struct{}), failed: make(chan struct{}), driver: d, live: make(map[net.Conn]struct{}), conn: Connection{
		Index: index, Size: cfg.Export.Device.Size(), BlockSize: 4096, Flags: nbd.TransmissionFlags(cfg.Export),
		Timeout: cfg.Timeout, DeadTimeout: cfg.DeadTimeout, Identifier: cfg.Identifier,
	}}
	// Of ctx only what Start waits for.
	f.ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := f.begin(ctx); err != nil {
		f.cancel()
		f.served.Wait()
		return nil, err
	}
	return f, nil
}

// ParsePath is the N in /dev/nbdN, or AnyIndex of nbd.
func ParsePath(path string) (int, error) {
	if path == "nbd" {
		return AnyIndex, nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(path, "/dev/nbd"), 10, 16)
	if err != nil || !strings.HasPrefix(path, "/dev/nbd") {
		return 0, fmt.Errorf("%s is not an nbd device: name one as /dev/nbd0, or nbd for the first that is free", path)
	}
	return int(n), nil
}

// begin places the front on a device. One that was disconnected is there until
// whoever has it open, udev perhaps, closes it: that is waited for.
func (f *Front) begin(ctx context.Context) error {
	want := f.conn.Index
	for began := time.Now(); ; {
		f.conn.Index = want
		err := f.place(ctx)
		if !errors.Is(err, ErrGone) || time.Since(began) > f.on.patience {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(renewFirst / 2):
		}
	}
}

// place connects all sockets. Errors: ErrGone, when the volume's device was
// disconnected and somebody has it open still; nothing is begun then.
func (f *Front) place(ctx context.Context) error {
	// A device that waits for this volume's client comes before every other one:
	// what is swapped out lies behind it, and a second one would discard that.
	at, found, err := held(f.on.sysfs, f.cfg.Identifier)
	switch {
	case err != nil:
		return err
	case found && f.conn.Index != AnyIndex && f.conn.Index != at:
		return fmt.Errorf("%s: %w: %s", f.cfg.Path, ErrElsewhere, pathOf(at))
	case found:
		f.conn.Index = at
		return f.takeOver(ctx)
	case f.conn.Index == AnyIndex:
		return f.connect(ctx)
	}
	up, err := f.driver.Connected(f.conn.Index)
	if err != nil {
		return err
	}
	if up {
		id, err := backend(f.on.sysfs, f.conn.Index)
		return errors.Join(fmt.Errorf("%s is connected to %q: %w", f.Path(), id, ErrBusy), err)
	}
	return f.connect(ctx)
}

// takeOver goes on with the device of a client that is gone.
func (f *Front) takeOver(ctx context.Context) error {
	ours, err := f.renew()
	if errors.Is(err, ErrGone) {
		return err
	}
	close(f.placed)
	f.log.Info("the kernel has waited for this client", "device", f.Path())
	f.served.Go(func() { f.keep(ours) }) // without a connection it goes on trying
	for range f.cfg.Connections - 1 {
		f.served.Go(func() { f.keep(nil) })
	}
	// The client before may have been killed before it set the queue. A queue in
	// use is not changed: that waits for all that is in flight. Asked when the
	// device is served: a call that the client before left may hold the settings
	// until requests are answered.
	wrong, release, err := blockdev.Apart(ctx, "untuned", f.on.sysfs, strconv.Itoa(f.conn.Index))
	if err != nil {
		return err
	}
	if err := release(); err != nil || wrong == "" {
		return err
	}
	unused, err := f.on.claim(ctx, f.Path())
	if err != nil {
		f.log.Error("the queue is not as it should be, and the device is in use: requests may fail; end its use and attach again",
			"device", f.Path(), "settings", wrong, "error", err)
		return nil
	}
	return errors.Join(f.Tune(ctx), unused())
}

// Tune sets the queue where it is not as it should be. For a device that nobody
// uses; whoever begins to use one calls it first.
func (f *Front) Tune(ctx context.Context) error {
	_, release, err := blockdev.Apart(ctx, "tune", f.on.sysfs, strconv.Itoa(f.conn.Index))
	if err == nil {
		err = release()
	}
	if err != nil {
		return err
	}
	return blockdev.Unthrottle(ctx, f.on.sysfs, fmt.Sprintf("nbd%d", f.conn.Index))
}

// connect makes the device.
func (f *Front) connect(ctx context.Context) error {
	c := f.conn
	for range f.cfg.Connections {
		kernel, ours, err := f.on.pair()
		if err != nil {
			return err
		}
		defer kernel.Close() // the kernel has its own reference, or none is needed
		c.Sockets = append(c.Sockets, int(kernel.Fd()))
		// Served before the kernel has it: whoever sees the device come reads it.
		f.served.Go(func() { f.keep(ours) })
	}
	index, err := f.driver.Connect(c)
	if err != nil {
		return err
	}
	f.conn.Index = index
	close(f.placed)
	if id, err := backend(f.on.sysfs, index); err != nil || id != f.cfg.Identifier {
		// Without it no later client could take the device over.
		return errors.Join(fmt.Errorf("%s holds the identifier %q, not %q: %w", f.Path(), id, f.cfg.Identifier, ErrTooOld), err, f.driver.Disconnect(index))
	}
	if err := f.Tune(ctx); err != nil {
		return errors.Join(err, f.driver.Disconnect(index))
	}
	return nil
}

// Path is the device's.
func (f *Front) Path() string { return pathOf(f.conn.Index) }

// Claim takes the device from everybody else, until Close: nobody swaps to it,
// mounts it, builds on it, or has it open, nor can begin to swap or mount. Otherwise
// it fails with blockdev.ErrInUse. A device whose pages do not come within ctx is
// not claimed.
func (f *Front) Claim(ctx context.Context) error {
	return f.claimed.Reserve(func() (func() error, error) { return f.on.claim(ctx, f.Path()) })
}

// Close ends the front end. A device that is in use is left connected, and the
// kernel waits for the next client; kept says so. Otherwise it is disconnected,
// unless it is this volume's no more.
//
// What is in flight is given the time of ctx to be answered. What is not by then
// the kernel sends to the next client: an error that the Device answers with
// later, because it is closed, reaches nobody.
func (f *Front) Close(ctx context.Context) (kept bool, err error) {
	ours, err := f.ours()
	var release func() error
	if ours {
		// Held until the device is gone, so that nobody begins to use it meanwhile.
		release, err = f.claimed.Take(func() (func() error, error) { return f.on.claim(ctx, f.Path()) })
	}
	kept = err != nil // what may be in use must not be taken away
	if errors.Is(err, blockdev.ErrInUse) {
		err = nil
	}
	// Served no more before it is taken away, or its end would be taken for
	// one that a new connection mends.
	f.cancel()
	served := make(chan struct{})
	go func() {
		f.served.Wait()
		close(served)
	}()
	select {
	case <-served:
	case <-ctx.Done():
		err = errors.Join(err, fmt.Errorf("leaving %s with requests in flight: %w", f.Path(), ctx.Err()))
		f.mu.Lock()
		for nc := range f.live {
			err = errors.Join(err, nc.Close())
		}
		f.mu.Unlock()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if release != nil {
		gone := f.disconnect()
		kept = gone != nil
		err = errors.Join(err, gone, release())
	}
	return kept, errors.Join(err, f.claimed.Release(), f.driver.Close())
}

// disconnect takes the claimed device away if it is this volume's: the driver
// asks nobody whose it is. While it is claimed that cannot change.
func (f *Front) disconnect() error {
	ours, err := f.ours()
	if err != nil || !ours {
		return err
	}
	return f.driver.Disconnect(f.conn.Index)
}

// ours reports whether the kernel still has the device for this volume.
func (f *Front) ours() (bool, error) {
	id, err := backend(f.on.sysfs, f.conn.Index)
	return id == f.cfg.Identifier, err
}
