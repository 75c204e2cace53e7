package doctor

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func capabilities(h *Host) []Finding {
	var all []Finding
	for _, c := range []struct {
		name       string
		capability uint
		why        string
	}{
		{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN, "connects devices, swapon and swapoff"},
		{"CAP_IPC_LOCK", unix.CAP_IPC_LOCK, "locks memory: a client that is swapped out waits for itself"},
		{"CAP_SYS_NICE", unix.CAP_SYS_NICE, "sets SCHED_RR: without, one run in two hung under pressure"},
		{"CAP_SYS_RESOURCE", unix.CAP_SYS_RESOURCE, "sets PR_SET_IO_FLUSHER and oom_score_adj"},
		{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN, "gives sockets a send buffer that a request fits into (SO_SNDBUFFORCE)"},
	} {
		if h.Capable(c.capability) {
			all = append(all, ok("rights", "%s", c.name)...)
			continue
		}
		all = append(all, Finding{"rights", Failure, "no " + c.name, "it " + c.why, "run as root, or AmbientCapabilities=" + c.name + " in the unit; in a container, add the capability"})
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
