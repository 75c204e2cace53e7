package nbdclient

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
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

// Fit says why nobody could listen here, as far as it shows without trying.
func (a Addr) Fit() error {
	if a.Network != "unix" {
		_, port, err := net.SplitHostPort(a.Address)
		if err != nil {
			return err
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return fmt.Errorf("NBD address %s: the port must be a number from 0 to 65535", a.Address)
		}
		return nil
	}
	if len(a.Address) > maxSocket {
		return fmt.Errorf("NBD socket %s: the path is longer than the %d bytes that a unix socket's may have", a.Address, maxSocket)
	}
	if _, err := os.Stat(filepath.Dir(a.Address)); err != nil {
		return fmt.Errorf("NBD socket %s: its folder: %w", a.Address, err)
	}
	if is, err := os.Lstat(a.Address); err == nil && is.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("NBD socket %s: something else is there, which is no socket: choose another path", a.Address)
	}
	return nil
}

// maxSocket is the longest path of a unix socket: the kernel's 108 bytes end in a zero.
const maxSocket = 107

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
