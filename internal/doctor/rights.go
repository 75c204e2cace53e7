package doctor

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func rights(h *Host, want []right) []Finding {
	var all []Finding
	for _, c := range want {
		if h.Capable(c.capability) {
			all = append(all, ok("rights", "%s", c.name)...)
			continue
		}
		all = append(all, Finding{"rights", Failure, "no " + c.name, "it " + c.why, "run as root, or AmbientCapabilities=" + c.name + " in the unit; in a container, add the capability; one in a user namespace does not count"})
	}
	return all
}

func memlock(h *Host) []Finding {
	const none = ^uint64(0)
	if h.Memlock == none || h.Capable(unix.CAP_IPC_LOCK) {
		return ok("memlock", "no limit that counts")
	}
	return []Finding{{"memlock", Failure, fmt.Sprintf("at most %d KiB may be locked", h.Memlock>>10),
		"the client locks all its memory, also what it needs later", "ulimit -l unlimited, LimitMEMLOCK=infinity in the unit"}}
}
