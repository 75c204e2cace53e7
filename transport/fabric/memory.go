//go:build fabric && cgo

package fabric

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// mapMemory maps n bytes of zeros outside the Go heap, there when they are
// needed: what libfabric may see.
func mapMemory(n int) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("mapping %d bytes: %w", n, err)
	}
	return mem, nil
}

func unmapMemory(mem []byte) {
	if mem != nil {
		_ = unix.Munmap(mem) // a mapping of our own: cannot fail
	}
}
