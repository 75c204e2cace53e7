package nbddev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"dmps/client/nbd"
	"dmps/internal/blockdev"
)

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
	// Timeout is after how long the kernel sends a request again; it must be
	// longer than any that the client lets one wait while it works. Default
	// DefaultTimeout.
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

// renewEvery is how often a socket is offered to a kernel that has no use for
// it yet: it may not have noticed that the one before is dead.
const renewEvery = 100 * time.Millisecond

// Front keeps a device connected, from Start to Close.
type Front struct {
	cfg    Config
	conn   Connection // without Sockets
	log    *slog.Logger
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	served sync.WaitGroup

	mu     sync.Mutex // holds the driver, while connections are kept
	driver *Driver
	live   map[net.Conn]struct{} // connections that are served
}

// Start connects the device, or takes it over when it is connected to the same
// volume by a client that is gone. Errors: ErrNoDriver, ErrBusy.
func Start(ctx context.Context, cfg Config) (*Front, error) {
	index, err := parsePath(cfg.Path)
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
	d, err := OpenDriver()
	if err != nil {
		return nil, err
	}
	f := &Front{cfg: cfg, log: cfg.Log, driver: d, live: make(map[net.Conn]struct{}), conn: Connection{
		Index: index, Size: cfg.Export.Device.Size(), BlockSize: 4096, Flags: nbd.TransmissionFlags(cfg.Export),
		Timeout: cfg.Timeout, DeadTimeout: cfg.DeadTimeout, Identifier: cfg.Identifier,
	}}
	// Of ctx only what Start waits for.
	f.ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := f.begin(ctx); err != nil {
		f.cancel()
		f.served.Wait()
		return nil, errors.Join(err, d.Close())
	}
	return f, nil
}

// parsePath is the index in /dev/nbdN.
func parsePath(path string) (int, error) {
	if path == "nbd" {
		return AnyIndex, nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(path, "/dev/nbd"), 10, 16)
	if err != nil || !strings.HasPrefix(path, "/dev/nbd") {
		return 0, fmt.Errorf("%s is not an nbd device: name one as /dev/nbd0, or nbd for the first that is free", path)
	}
	return int(n), nil
}

// begin connects all sockets.
func (f *Front) begin(ctx context.Context) error {
	if f.conn.Index == AnyIndex {
		// A device that waits for this volume's client comes before a free one.
		if i, ok := waiting(sysfs, f.cfg.Identifier); ok {
			f.conn.Index = i
		}
	}
	if f.conn.Index != AnyIndex {
		up, err := f.driver.Connected(f.conn.Index)
		if err != nil {
			return err
		}
		if up {
			if id := backend(sysfs, f.conn.Index); id != f.cfg.Identifier {
				return fmt.Errorf("%s is connected to %q: %w", f.Path(), id, ErrBusy)
			}
			f.log.Info("the kernel has waited for this client", "device", f.Path())
			for range f.cfg.Connections {
				f.served.Go(func() { f.keep(nil) })
			}
			return nil
		}
	}
	return f.connect(ctx)
}

// connect makes the device.
func (f *Front) connect(ctx context.Context) error {
	c := f.conn
	for range f.cfg.Connections {
		kernel, ours, err := Pair()
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
	if err := setUp(ctx, index); err != nil {
		return errors.Join(err, f.driver.Disconnect(index))
	}
	return nil
}

// keep serves one connection, and the next one in its place whenever the kernel
// has given it up, until Close. Without a connection it begins with a new one.
func (f *Front) keep(ours net.Conn) {
	for {
		began := time.Now()
		if ours == nil {
			var err error
			if ours, err = f.renew(); err != nil {
				f.log.Error("offering the kernel a new connection failed", "device", f.Path(), "error", err)
			}
		}
		if ours != nil {
			// Read to its end before there is a new one: what was sent on it
			// is older than anything on the next.
			err := f.serve(ours)
			ours = nil
			if f.ctx.Err() != nil {
				return
			}
			if err != nil || time.Since(began) > renewEvery {
				f.log.Warn("the kernel has given up a connection", "device", f.Path(), "error", err)
			}
		}
		select {
		case <-f.ctx.Done():
			return
		case <-time.After(max(0, renewEvery-time.Since(began))):
		}
	}
}

// serve serves one connection to its end.
func (f *Front) serve(nc net.Conn) error {
	f.mu.Lock()
	f.live[nc] = struct{}{}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.live, nc)
		f.mu.Unlock()
	}()
	return nbd.ServeTransmission(f.ctx, nc, f.cfg.Export, nbd.Config{Log: f.log, StallTimeout: -1})
}

// renew gives the kernel a socket in the place of a dead one. When it has none
// that is dead, the connection that is returned ends at once.
func (f *Front) renew() (net.Conn, error) {
	kernel, ours, err := Pair()
	if err != nil {
		return nil, err
	}
	defer kernel.Close() // the kernel has its own reference, or has none
	c := f.conn
	c.Sockets = []int{int(kernel.Fd())}
	f.mu.Lock()
	err = f.driver.Reconfigure(c)
	f.mu.Unlock()
	if err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	return ours, nil
}

// Path is the device's.
func (f *Front) Path() string { return "/dev/nbd" + strconv.Itoa(f.conn.Index) }

// InUse reports whether somebody swaps to the device, has mounted it, builds on
// it, or has it open. A device whose pages do not come within ctx answers with an
// error.
func (f *Front) InUse(ctx context.Context) (bool, error) {
	release, err := blockdev.Claim(ctx, f.Path())
	if errors.Is(err, blockdev.ErrInUse) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, release()
}

// Close ends the front end. A device that is in use is left connected, and the
// kernel waits for the next client; kept says so. Otherwise it is disconnected.
//
// What is in flight is given the time of ctx to be answered. What is not by then
// the kernel sends to the next client: an error that the Device answers with
// later, because it is closed, reaches nobody.
func (f *Front) Close(ctx context.Context) (kept bool, err error) {
	// Held until the device is gone, so that nobody begins to use it meanwhile.
	release, err := blockdev.Claim(ctx, f.Path())
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
	if !kept {
		err = errors.Join(err, f.driver.Disconnect(f.conn.Index), release())
	}
	return kept, errors.Join(err, f.driver.Close())
}

const sysfs = "/sys"

// backend is the identifier of a connected device.
func backend(root string, index int) string {
	b, err := os.ReadFile(filepath.Join(root, "block", fmt.Sprintf("nbd%d", index), "backend"))
	if err != nil {
		return "" // not connected, or without one
	}
	return strings.TrimSpace(string(b))
}

// Waiting finds the device of a volume that is connected, perhaps to a client
// that is gone. Whoever would rather make a device of another kind asks first.
func Waiting(identifier string) (path string, found bool) {
	n, found := waiting(sysfs, identifier)
	if !found {
		return "", false
	}
	return "/dev/nbd" + strconv.Itoa(n), true
}

// waiting finds the device that holds what identifier names.
func waiting(root, identifier string) (int, bool) {
	dirs, err := filepath.Glob(filepath.Join(root, "block", "nbd*"))
	if err != nil {
		return 0, false // not with this pattern
	}
	for _, dir := range dirs {
		n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "nbd"))
		if err == nil && backend(root, n) == identifier {
			return n, true
		}
	}
	return 0, false
}
