package main

import (
	"log/slog"
	"net"
	"strings"

	"dmps/server"
	"dmps/transport"
	"dmps/transport/fabric"
	"dmps/transport/rails"
)

// medium is how a memory server serves its clients.
type medium struct {
	listen string // host:port, with commas between several
	scheme string // empty: tcp
	front  func(transport.Backend) server.Front
}

// serveByAll takes the values of --listen apart: an address for each network
// interface, all of one medium.
func serveByAll(listen []string, log *slog.Logger) (medium, error) {
	var m medium
	var at []string
	for i, l := range listen {
		o, err := serveBy(l, log)
		if err != nil {
			return m, err
		}
		if i > 0 && o.scheme != m.scheme {
			return m, usageError("--listen: addresses of one server by the same providers, or all by TCP")
		}
		at = append(at, o.listen)
		m = o
	}
	all, err := rails.Join(at)
	if err != nil {
		return m, usageError("--listen: %w", err)
	}
	m.listen = all
	return m, nil
}

// serveBy takes one --listen apart: host:port, or
// fabric+PROVIDER[+PROVIDER...]://host:port, which serves clients of tcp:// as well.
func serveBy(listen string, log *slog.Logger) (medium, error) {
	if !strings.Contains(listen, "://") {
		return medium{listen: listen}, nil
	}
	if hostPort, ok := strings.CutPrefix(listen, "tcp://"); ok {
		return medium{listen: hostPort}, nil
	}
	by, hostPort, err := fabric.ParseAddress(listen)
	if err != nil {
		return medium{}, usageError("--listen: %w", err)
	}
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		return medium{}, usageError("--listen: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "" // any
	}
	for _, provider := range by {
		if err := fabric.Available(provider, host); err != nil {
			return medium{}, usageError("--listen %s: %s: %w", listen, provider, err)
		}
	}
	return medium{listen: hostPort, scheme: "fabric+" + strings.Join(by, "+"), front: func(b transport.Backend) server.Front {
		return &fabric.Server{Backend: b, Log: log, Providers: by}
	}}, nil
}
