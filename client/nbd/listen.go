package nbd

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"

	"dmps/internal/accept"
)

// Listen opens addr, which is "HOST:PORT" for TCP or "unix:PATH". A socket file
// that nobody listens on any more is replaced; one that is in use is not. Only this user
// reaches the socket (mode 0600).
func Listen(addr string) (net.Listener, error) {
	network := "tcp"
	if path, local := strings.CutPrefix(addr, "unix:"); local {
		network, addr = "unix", path
	}
	l, err := accept.Listen(context.Background(), network, addr, nil)
	if err != nil {
		return nil, fmt.Errorf("nbd: listen: %w", err)
	}
	return l, nil
}

// URI is how clients name an export at addr, the address of a listener. The
// default export has the empty name.
func URI(addr net.Addr, export string) string {
	u := url.URL{Scheme: "nbd", Host: addr.String(), Path: "/" + export}
	if addr.Network() == "unix" {
		u.Scheme, u.Host = "nbd+unix", ""
		u.RawQuery = "socket=" + (&url.URL{Path: addr.String()}).EscapedPath()
	}
	if export == "" && u.Scheme == "nbd" {
		u.Path = ""
	}
	return u.String()
}
