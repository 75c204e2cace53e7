package nbd

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"dmps/client"
)

// Config is what a Server is made of. Zero values take the defaults.
type Config struct {
	// Exports are the devices by the names that clients ask for. The server
	// does not close them.
	Exports map[string]Export
	// Default is the export that the empty name stands for. Without it, the
	// only export is the default, and of several none is.
	Default string

	// Depth is how many requests of one connection may be in flight, from
	// the header until the reply was taken by the socket. Default 1024.
	Depth int
	// Window is how many bytes of page buffers the requests of one
	// connection may hold: what a client that never reads its replies can
	// keep from others. At least one request of the largest size, 32 MiB and
	// a page; by default two.
	Window int64
	// MaxConns is how many connections are served at once; more are closed
	// when they come. Default 256.
	MaxConns int
	// HandshakeTimeout bounds the negotiation. Default 30 s.
	HandshakeTimeout time.Duration
	// StallTimeout ends a connection whose client has for so long neither
	// taken a byte of the replies that wait for it, nor finished sending the
	// payload of one write: both hold page buffers. Default 2 minutes,
	// negative for never.
	StallTimeout time.Duration
	// Patience bounds how long a request that changes something may have lain here
	// before it is begun, because those before it took all that the connection may
	// have in flight, or all page buffers. Its client may have given it up, and sent
	// it again elsewhere: it fails, with EIO. At least as long as the device takes
	// for a request that it cannot carry out. Default 10 s, negative for never.
	Patience time.Duration

	// Log gets what happens to connections. Default: nothing is logged.
	Log *slog.Logger
}

// withDefaults checks the configuration and fills in what was left out.
func (c Config) withDefaults() (Config, error) {
	const largest = client.MaxOpPages * pageSize
	if c.Window != 0 && c.Window < largest {
		return c, fmt.Errorf("nbd: a window of %d bytes is less than one request of %d", c.Window, largest)
	}
	if c.Depth < 0 || c.Window < 0 || c.MaxConns < 0 || c.HandshakeTimeout < 0 {
		return c, errors.New("nbd: a limit is negative")
	}
	setDefault(&c.Depth, 1024)
	setDefault(&c.Window, 2*largest)
	setDefault(&c.MaxConns, 256)
	setDefault(&c.HandshakeTimeout, 30*time.Second)
	setDefault(&c.StallTimeout, 2*time.Minute)
	setDefault(&c.Patience, 10*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}
