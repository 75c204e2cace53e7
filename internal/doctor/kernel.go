package doctor

import (
	"fmt"
)

// version is the major and minor number of a release such as 6.12.117+deb12.
func version(release string) (major, minor int) {
	_, _ = fmt.Sscanf(release, "%d.%d", &major, &minor) // what is no number is 0: too old
	return major, minor
}

func kernel(h *Host, kind string) []Finding {
	major, minor := version(h.Release)
	at := func(a, b int) bool { return major > a || major == a && minor >= b }
	switch {
	case !at(5, 6):
		return []Finding{{"kernel", Failure, h.Release, "before 5.6 a process cannot be kept from waiting for I/O of its own (PR_SET_IO_FLUSHER)", "a newer kernel"}}
	case kind == Ublk && !at(6, 5):
		return []Finding{{"kernel", Failure, h.Release, "what this program needs of ublk (UBLK_F_USER_COPY) came with 6.5", "a newer kernel, or --device nbd"}}
	case !at(5, 14):
		return []Finding{{"kernel", Failure, h.Release, "before 5.14 nbd does not keep whose a device is (NBD_ATTR_BACKEND_IDENTIFIER), and a client that starts again could not go on with it", "a newer kernel"}}
	}
	return ok("kernel", "%s", h.Release)
}

func driver(h *Host, kind string) []Finding {
	module := "nbd"
	if kind == Ublk {
		module = "ublk_drv"
	}
	if h.exists("/sys/module/" + module) {
		return ok("driver", "%s is loaded", module)
	}
	if h.Want == Auto { // ublk lacks something, perhaps just that
		return []Finding{{"driver", Failure, "neither ublk_drv can be used nor nbd, which is not loaded", "the kernel reaches the client through one of them",
			"modprobe ublk_drv (Linux 6.5), or modprobe nbd; a line with its name in /etc/modules-load.d/dmps.conf; --device ublk says what that lacks"}}
	}
	return []Finding{{"driver", Failure, module + " is not loaded", "the kernel reaches the client through " + kind, "modprobe " + module + "; a line " + module + " in /etc/modules-load.d/dmps.conf"}}
}

func realtime(h *Host) []Finding {
	const check, path = "realtime", "/proc/sys/kernel/sched_rt_runtime_us"
	n, found := h.number(path)
	if !found {
		return unknown(check, path)
	}
	if n == 0 {
		return []Finding{{check, Failure, "sched_rt_runtime_us is 0", "no process can be scheduled before the others (SCHED_RR)", "sysctl kernel.sched_rt_runtime_us=950000"}}
	}
	if n < 0 {
		return []Finding{{check, Warning, "sched_rt_runtime_us is -1", "a thread that spins is never made to give way to an ordinary one", "sysctl kernel.sched_rt_runtime_us=950000"}}
	}
	// How long one of them may keep a processor from the others of its kind: Go's
	// runtime can spin for what another thread has to finish (package harden).
	const slicePath, most = "/proc/sys/kernel/sched_rr_timeslice_ms", 20
	if slice, found := h.number(slicePath); found && slice > most {
		return []Finding{{check, Warning, fmt.Sprintf("sched_rr_timeslice_ms is %d", slice),
			"a thread that spins keeps pages waiting for as long", "sysctl kernel.sched_rr_timeslice_ms=10"}}
	}
	return ok(check, "SCHED_RR may run %d us of each period", n)
}
