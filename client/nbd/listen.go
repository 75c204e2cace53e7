package nbd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"

	"dmps/internal/accept"
)

// Listen opens addr, which is "HOST:PORT" for TCP or "unix:PATH". A socket file
// that nobody listens on any more is replaced; one that is in use is not.
func Listen(addr string) (net.Listener, error) {
	path, unix := strings.CutPrefix(addr, "unix:")
	if !unix {
		l, err := accept.Listen(context.Background(), "tcp", addr, nil)
		if err != nil {
			return nil, fmt.Errorf("nbd: listen: %w", err)
		}
		return l, nil
	}
	l, err := accept.Listen(context.Background(), "unix", path, nil)
	if errors.Is(err, syscall.EADDRINUSE) && stale(path) {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("nbd: replace stale socket: %w", err)
		}
		l, err = accept.Listen(context.Background(), "unix", path, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("nbd: listen: %w", err)
	}
	return l, nil
}

// stale says whether path is a socket that nobody listens on.
func stale(path string) bool {
	st, err := os.Lstat(path)
	if err != nil || st.Mode()&fs.ModeSocket == 0 {
		return false
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close() // somebody is there
		return false
	}
	return errors.Is(err, syscall.ECONNREFUSED)
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
