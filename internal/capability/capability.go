// Package capability tells what a process may do: capabilities(7).
package capability

import (
	"os"

	"golang.org/x/sys/unix"
)

// hostUsers is the user namespace of the host, PROC_USER_INIT_INO of
// include/linux/proc_ns.h.
const hostUsers = "user:[4026531837]"

// Has reports whether the process has a capability, CAP_*, in effect on the host. What it
// has in a user namespace counts for what belongs to that: no device, no real-time
// priority, no locked memory.
func Has(capability uint) bool {
	if in, err := os.Readlink("/proc/self/ns/user"); err == nil && in != hostUsers {
		return false
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}
