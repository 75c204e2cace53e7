package image

import (
	"fmt"
	"path/filepath"
)

// AddRDMA puts there what programs with libibverbs load only when they run, and
// ldd does not tell of: the driver of soft RoCE, and what ends a thread of C.
// Errors: ErrUnavailable where this machine has no such driver.
func (i *Initrd) AddRDMA() error {
	const driver = "/etc/libibverbs.d/rxe.driver"
	// The folder is compiled into libibverbs, the suffix is its private interface's version.
	plugins, err := filepath.Glob("/usr/lib/*/libibverbs/librxe-rdmav*.so")
	if err != nil || len(plugins) == 0 {
		return fmt.Errorf("%w with RDMA: no driver of libibverbs for soft RoCE (Debian: ibverbs-providers)", ErrUnavailable)
	}
	ends, err := filepath.Glob("/lib/*/libgcc_s.so.1")
	if err != nil || len(ends) == 0 {
		return fmt.Errorf("%w with RDMA: no libgcc_s (Debian: libgcc-s1)", ErrUnavailable)
	}
	if err := i.AddHost(driver, driver); err != nil {
		return err
	}
	for _, lib := range append(plugins, ends...) {
		if err := i.AddHost(lib, lib); err != nil {
			return err
		}
		needs, err := libraries(lib)
		if err != nil {
			return err
		}
		for _, n := range needs {
			if err := i.AddHost(n, n); err != nil {
				return err
			}
		}
	}
	return nil
}
