package fabric

import (
	"fmt"
	"net"
	"strings"
)

// Schemes of addresses, by the short name of the provider: fabric+tcp://host:port.
const schemePrefix = "fabric+"

// providers are libfabric's names (fi_provider(7)) for ours.
var providers = map[string]string{
	"tcp":   "tcp;ofi_rxm",
	"shm":   "shm",
	"verbs": "verbs;ofi_rxm",
	"efa":   "efa",
}

// IsAddress reports whether addr is one of this package: fabric+PROVIDER://...
func IsAddress(addr string) bool { return strings.HasPrefix(addr, schemePrefix) }

// ParseAddress takes fabric+PROVIDER://host:port apart. The host and port are
// those of the link, a TCP socket.
func ParseAddress(addr string) (provider, hostPort string, err error) {
	rest, ok := strings.CutPrefix(addr, schemePrefix)
	provider, hostPort, found := strings.Cut(rest, "://")
	if !ok || !found {
		return "", "", fmt.Errorf("address %q must be fabric+PROVIDER://host:port", addr)
	}
	if providers[provider] == "" {
		return "", "", fmt.Errorf("address %q: provider %q is none of tcp, shm, verbs, efa", addr, provider)
	}
	if _, _, err := net.SplitHostPort(hostPort); err != nil {
		return "", "", fmt.Errorf("address %q: %w", addr, err)
	}
	return provider, hostPort, nil
}
