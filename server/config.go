package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/procfs"

	"dmps/internal/reach"
	"dmps/raid"
	"dmps/transport"
	"dmps/transport/rails"
	"dmps/transport/tcp"
)

// Config is how a memory server is set up.
type Config struct {
	ID     raid.ServerID
	Memory int64 // bytes to lend, headers included; rounded down to whole pages

	// AllowSwappable starts the server even when its memory cannot be locked.
	AllowSwappable bool

	// Listen is host:port for clients, or several of them with commas between:
	// one for each network interface, the one to prefer first. Other than loopback
	// it needs InsecureNetwork: there is no authentication yet.
	Listen          string
	InsecureNetwork bool
	// Advertise is the host:port that clients are told, or several as in Listen;
	// the listeners' own addresses when empty. Clients use all of them (package
	// rails), so they must lead to this server.
	Advertise string

	// Scheme is that of the addresses which clients are told; empty: tcp. Front
	// makes what serves them on Listen; nil: package tcp. Both belong together:
	// package fabric also serves clients that take its server's address for
	// one of tcp://.
	Scheme string
	Front  func(transport.Backend) Front

	// Cluster is the id of the cluster. When empty the server takes meta's
	// first answer, and refuses sessions until then.
	Cluster string
	Labels  map[string]string // host, rack, zone

	// Peers dials the servers that a rebuild reads from; nil: TCP. The server
	// registers memory with it and closes it, so it must be nobody else's.
	Peers transport.Dialer
	// RebuildRate bounds what all rebuilds together pull from other servers,
	// and what scrubs pull and read of this server's own memory, headers
	// included, in bytes a second; 0: no limit.
	RebuildRate int64

	// Shortage says when memory is asked to be moved away; the zero value: never.
	Shortage Shortage

	Registrar Registrar     // nil: the server tells nobody that it exists
	Heartbeat time.Duration // 0: one second
	// Care is told of volumes that need somebody to rebuild them, with each
	// heartbeat anew. It must not block. nil: nobody here does that.
	Care func([]CareOffer)

	Window  int                   // requests in flight per session; 0: 256
	Metrics prometheus.Registerer // nil: none
	Log     *slog.Logger          // nil: slog.Default
}

// Front is the server side of a medium. Serve owns l; Close returns when nothing
// of its sessions touches the Backend's memory any more.
type Front interface {
	Serve(l net.Listener) error
	// Full says why no connection is taken at the moment; nil: there is room.
	// TurnedAway counts those that were refused for that, or for another limit.
	Full() error
	TurnedAway() uint64
	Close() error
}

func (c Config) withDefaults() (Config, error) {
	c.Memory -= c.Memory % raid.PageSize
	if c.Heartbeat == 0 {
		c.Heartbeat = time.Second
	}
	if c.Window == 0 {
		c.Window = 256
	}
	if c.Peers == nil {
		c.Peers = new(tcp.Dialer)
	}
	if c.Scheme == "" {
		c.Scheme = "tcp"
	}
	if c.Front == nil {
		c.Front = func(b transport.Backend) Front { return &tcp.Server{Backend: b, Log: c.Log} }
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	c.Log = c.Log.With("server", string(c.ID))
	var errs []error
	if c.ID == "" {
		errs = append(errs, errors.New("a memory server needs an id"))
	}
	if c.Memory <= 0 {
		errs = append(errs, errors.New("memory to lend must be at least one page of 4096 bytes"))
	}
	if c.Window < 1 || c.Window > 4096 {
		errs = append(errs, fmt.Errorf("window of %d requests: must be 1 to 4096", c.Window))
	}
	if c.RebuildRate < 0 {
		errs = append(errs, fmt.Errorf("rebuild rate of %d bytes a second", c.RebuildRate))
	}
	errs = append(errs, c.Shortage.validate())
	if c.Shortage.Look == nil {
		c.Shortage.Look = func() (HostMemory, error) { return lookAtHost(procfs.DefaultMountPoint) }
	}
	if c.Listen != "" {
		l, err := rails.Split(c.Listen)
		errs = append(errs, err)
		for _, a := range l {
			errs = append(errs, checkListen(a, c.InsecureNetwork))
		}
	}
	var told []string
	if c.Advertise != "" {
		told = strings.Split(c.Advertise, ",")
		_, err := c.address(told)
		errs = append(errs, err)
	}
	errs = append(errs, reach.Told(strings.Split(c.Listen, ","), told, "--advertise"))
	return c, errors.Join(errs...)
}

// address is what clients are told of the server at these host:port.
func (c *Config) address(at []string) (string, error) {
	var l []string
	for _, a := range at {
		l = append(l, c.Scheme+"://"+a)
	}
	return rails.Join(l)
}

// checkListen refuses addresses that others can reach.
func checkListen(addr string, insecure bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("listen address: %w", err)
	}
	if insecure || host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("listen address %s is not loopback: anybody who reaches it can read and write all memory that is lent; allow it with --insecure-network", addr)
	}
	return nil
}
