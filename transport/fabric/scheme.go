package fabric

import (
	"fmt"
	"net"
	"slices"
	"strings"
)

// Schemes of addresses, by the short names of the providers, the best first:
// fabric+tcp://host:port, fabric+verbs+tcp://host:port.
const schemePrefix = "fabric+"

// providers are libfabric's names (fi_provider(7)) for ours.
var providers = map[string]string{
	"tcp":   "tcp;ofi_rxm",
	"shm":   "shm",
	"verbs": "verbs;ofi_rxm",
	"efa":   "efa",
}

// IsAddress reports whether addr is one of this package: fabric+PROVIDER[+PROVIDER...]://...
func IsAddress(addr string) bool { return strings.HasPrefix(addr, schemePrefix) }

// ParseAddress takes fabric+PROVIDER[+PROVIDER...]://host:port apart. The host and
// port are those of the link, a TCP socket.
func ParseAddress(addr string) (by []string, hostPort string, err error) {
	rest, ok := strings.CutPrefix(addr, schemePrefix)
	names, hostPort, found := strings.Cut(rest, "://")
	if !ok || !found {
		return nil, "", fmt.Errorf("address %q must be fabric+PROVIDER://host:port", addr)
	}
	by = strings.Split(names, "+")
	for i, name := range by {
		if providers[name] == "" {
			return nil, "", fmt.Errorf("address %q: provider %q is none of tcp, shm, verbs, efa", addr, name)
		}
		if slices.Contains(by[:i], name) {
			return nil, "", fmt.Errorf("address %q: provider %q is there twice", addr, name)
		}
	}
	if _, _, err := net.SplitHostPort(hostPort); err != nil {
		return nil, "", fmt.Errorf("address %q: %w", addr, err)
	}
	return by, hostPort, nil
}
