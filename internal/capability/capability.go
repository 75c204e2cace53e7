// Package capability tells what a process may do: capabilities(7).
package capability

import "golang.org/x/sys/unix"

// Has reports whether the process has a capability, CAP_*, in effect.
func Has(capability uint) bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}
