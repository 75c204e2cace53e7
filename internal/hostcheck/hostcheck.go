// Package hostcheck keeps web pages in somebody's browser away from what listens on
// loopback or in a cluster's network. Such a page can reach any address that the browser
// can, and after DNS rebinding (its own name resolves to that address) also read what is
// answered. Its requests show: those that change something name an origin (Fetch standard,
// "Origin header"), and all name the host of the page.
package hostcheck

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
)

// Names are the host names that a server answers to, besides addresses, localhost and the
// name of its machine.
type Names []string

// Of adds the hosts of addresses (HOST:PORT) and URLs to n.
func (n Names) Of(addresses ...string) Names {
	for _, a := range addresses {
		if u, err := url.Parse(a); err == nil && u.Host != "" {
			a = u.Host
		}
		if host := hostOf(a); host != "" {
			n = append(n, host)
		}
	}
	return n
}

// Handler answers 403 to requests that come from a web page, or name a host that is not
// known, and gives the others to next. The paths in open are answered for every host:
// those which tell nothing that matters and are asked for by any name, as metrics.
func Handler(next http.Handler, names Names, open ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Origin") != "":
			http.Error(w, "not from a browser", http.StatusForbidden)
		case !names.known(r.Host) && !slices.Contains(open, r.URL.Path):
			http.Error(w, fmt.Sprintf("nothing here is called %q: name an address, or have this process started with --allow-host %[1]q", hostOf(r.Host)), http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func (n Names) known(host string) bool {
	host = hostOf(host)
	if _, err := netip.ParseAddr(host); err == nil || host == "localhost" {
		return true
	}
	if self, err := os.Hostname(); err == nil && host != "" {
		self = strings.ToLower(self)
		if short, _, _ := strings.Cut(self, "."); host == self || host == short {
			return true
		}
	}
	return slices.ContainsFunc(n, func(name string) bool { return strings.EqualFold(name, host) })
}

// hostOf is the host in HOST, HOST:PORT or [IPv6]:PORT, in small letters and without the dot
// that ends a full name.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.Trim(address, "[]")
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}
