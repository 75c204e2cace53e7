package nbdclient

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
)

// Addr is where an export is served.
type Addr struct {
	Network string // tcp or unix
	Address string // host:port, or the path of the socket
	Export  string // name of the export; empty is the server's default
}

// ParseListen reads the form in which a server is told where to listen:
// host:port or unix:PATH.
func ParseListen(s string) (Addr, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" {
			return Addr{}, fmt.Errorf("NBD address %q: give a path, unix:PATH", s)
		}
		abs, err := filepath.Abs(path)
		if err != nil {
			return Addr{}, fmt.Errorf("NBD address %q: %w", s, err)
		}
		return Addr{Network: "unix", Address: abs}, nil
	}
	if _, _, err := net.SplitHostPort(s); err != nil {
		return Addr{}, fmt.Errorf("NBD address %q: use HOST:PORT or unix:PATH, for example 127.0.0.1:10809", s)
	}
	return Addr{Network: "tcp", Address: s}, nil
}

// Listen is the form that ParseListen reads.
func (a Addr) Listen() string {
	if a.Network == "unix" {
		return "unix:" + a.Address
	}
	return a.Address
}

// DefaultPort is NBD's.
const DefaultPort = "10809"

// ParseURI reads nbd://HOST[:PORT]/EXPORT and nbd+unix:///EXPORT?socket=PATH
// (doc/uri.md of the NBD project).
func ParseURI(s string) (Addr, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Addr{}, fmt.Errorf("NBD URI: %w", err)
	}
	export := strings.TrimPrefix(u.Path, "/")
	switch u.Scheme {
	case "nbd":
		if u.Hostname() == "" {
			return Addr{}, fmt.Errorf("NBD URI %q: no host", s)
		}
		port := u.Port()
		if port == "" {
			port = DefaultPort
		}
		return Addr{Network: "tcp", Address: net.JoinHostPort(u.Hostname(), port), Export: export}, nil
	case "nbd+unix":
		path := u.Query().Get("socket")
		if path == "" {
			return Addr{}, fmt.Errorf("NBD URI %q: no ?socket=PATH", s)
		}
		return Addr{Network: "unix", Address: path, Export: export}, nil
	}
	return Addr{}, fmt.Errorf("NBD URI %q: %w", s, errScheme)
}

var errScheme = errors.New("use nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH")

// String is the NBD URI, which ParseURI reads back.
func (a Addr) String() string {
	export := (&url.URL{Path: "/" + a.Export}).EscapedPath()
	if a.Network == "unix" {
		return "nbd+unix://" + export + "?socket=" + escapePath(a.Address)
	}
	if a.Export == "" {
		export = ""
	}
	return "nbd://" + a.Address + export
}

// escapePath writes a path for a query: slashes stay readable, and a space is
// not a plus, which only HTML forms understand.
func escapePath(p string) string {
	return strings.NewReplacer("+", "%20", "%2F", "/").Replace(url.QueryEscape(p))
}
