package rails

import (
	"fmt"
	"slices"
	"strings"

	"dmps/transport"
)

// MaxAddress is the most bytes of an address that names several: what a source of
// a rebuild may have (docs/wire.md).
const MaxAddress = 255

// Join makes the address of a server from those of its interfaces, in order of
// preference: with commas between them. Each goes on wherever the address of a
// server goes: to the metadata service, in layouts, to servers that rebuild.
func Join(addrs []string) (string, error) {
	all := strings.Join(addrs, ",")
	got, err := Split(all)
	if err != nil {
		return "", err
	}
	if len(got) != len(addrs) {
		return "", fmt.Errorf("addresses of a server: a comma in one of %q", addrs)
	}
	return all, nil
}

// Split takes the address of a server apart.
func Split(addr string) ([]string, error) {
	if len(addr) > MaxAddress {
		return nil, fmt.Errorf("addresses of a server of %d bytes together, at most %d", len(addr), MaxAddress)
	}
	l := strings.Split(addr, ",")
	if len(l) > transport.MaxRails {
		return nil, fmt.Errorf("%d addresses of a server, at most %d", len(l), transport.MaxRails)
	}
	for i, a := range l {
		if a == "" || slices.Contains(l[:i], a) {
			return nil, fmt.Errorf("addresses of a server: %q is empty or there twice in %q", a, addr)
		}
	}
	return l, nil
}
