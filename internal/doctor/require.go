package doctor

import (
	"fmt"

	"golang.org/x/sys/unix"

	"dmps/internal/harden"
)

// Kinds of front end that a Host is asked about.
const (
	NBD  = "nbd"
	Ublk = "ublk"
	Auto = "auto" // what the kernel has, ublk before nbd
)

// Priority is that of SCHED_RR which threads of a client get: before all ordinary
// processes, behind the kernel's own threads, which are at 50.
const Priority = 10

// Waivers are what the user of attach has agreed to do without.
type Waivers struct {
	Unprotected bool // the process may wait for itself
	Swappable   bool // its memory is not locked
}

// requirements is what attach --device cannot do without. Attach and doctor both
// go by it: what doctor finds well, attach does not refuse.
var requirements = []struct {
	check  func(*Host) []Finding
	waived func(Waivers) bool
}{
	{frontEnd, never},
	{connects, never},
	{protects, func(w Waivers) bool { return w.Unprotected }},
	{cgroup, func(w Waivers) bool { return w.Unprotected }},
	{realtime, func(w Waivers) bool { return w.Unprotected }},
	{memlock, func(w Waivers) bool { return w.Swappable }},
}

func never(Waivers) bool { return false }

// Refused is why attach --device refuses on a machine: findings that are failures.
func Refused(h *Host, w Waivers) []Finding {
	var all []Finding
	for _, r := range requirements {
		if r.waived(w) {
			continue
		}
		for _, f := range r.check(h) {
			if f.Verdict == Failure {
				all = append(all, f)
			}
		}
	}
	return all
}

// kind is the front end that attach will use.
func (h *Host) kind() string {
	if h.Want != Auto {
		return h.Want
	}
	for _, f := range front(h, Ublk) {
		if f.Verdict == Failure {
			return NBD
		}
	}
	return Ublk
}

func frontEnd(h *Host) []Finding { return front(h, h.kind()) }

// front is what the kernel must have for a front end.
func front(h *Host, kind string) []Finding {
	all := kernel(h, kind)
	all = append(all, driver(h, kind)...)
	supported, other := h.NBD, Ublk
	if kind == Ublk {
		all = append(all, ioUring(h)...)
		supported, other = h.Ublk, NBD
	}
	if err := supported(); err != nil && Worst(all) == OK {
		all = append(all, Finding{"driver", Failure, err.Error(), "the kernel reaches the client through " + kind, "what it says, or --device " + other})
	}
	return all
}

// ioUring: ublk speaks through it. Documentation/admin-guide/sysctl/kernel.rst.
func ioUring(h *Host) []Finding {
	const check, path = "io_uring", "/proc/sys/kernel/io_uring_disabled"
	n, found := h.number(path)
	if found && (n == 2 || n == 1 && !h.Capable(unix.CAP_SYS_ADMIN)) {
		return []Finding{{check, Failure, fmt.Sprintf("io_uring_disabled is %d", n), "the ublk driver is spoken to through io_uring", "sysctl kernel.io_uring_disabled=0, or --device nbd"}}
	}
	return ok(check, "allowed")
}

func cgroup(h *Host) []Finding {
	const check = "cgroup"
	dir, err := harden.Placement(h.Root, "dmps")
	switch {
	case err != nil:
		return []Finding{{check, Failure, err.Error(), "what cannot be locked is charged to a cgroup that swaps, and the client waits for itself",
			"run it as a unit with MemorySwapMax=0, or: systemd-run -p MemorySwapMax=0 ...; without cgroup v2 boot with systemd.unified_cgroup_hierarchy=1"}}
	case dir == "":
		return ok(check, "it does not swap")
	}
	return ok(check, "attach makes one that does not swap")
}

// right is a capability, and a limit that does as well.
type right struct {
	name       string
	capability uint
	why        string
}

var (
	rightToConnect = []right{{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN, "connects devices, swapon and swapoff"}}
	rightToSend    = right{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN, "gives sockets a send buffer that a request fits into (SO_SNDBUFFORCE)"}
)

func connects(h *Host) []Finding {
	want := rightToConnect
	if h.kind() == NBD {
		want = append(want[:1:1], rightToSend)
	}
	return rights(h, want)
}

func protects(h *Host) []Finding {
	want := []right{{"CAP_SYS_RESOURCE", unix.CAP_SYS_RESOURCE, "sets PR_SET_IO_FLUSHER and oom_score_adj"}}
	if h.RTPrio < Priority {
		want = append(want, right{"CAP_SYS_NICE", unix.CAP_SYS_NICE, "sets SCHED_RR (LimitRTPRIO does as well): without, one run in two hung under pressure"})
	}
	all := rights(h, want)
	if Worst(all) == OK {
		if err := h.Protect(); err != nil {
			all = append(all, Finding{"rights", Failure, err.Error(), "the rights are there, and something takes them away", "look for a seccomp filter, or a kernel that gives cgroups real-time shares (rt_group_sched=0 on its command line)"})
		}
	}
	return all
}
