package doctor

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"dmps/internal/harden"
)

// servers: a memory server that shares the machine with its client waits for it,
// and lends memory that the machine is short of.
func servers(h *Host) []Finding {
	const check = "memory servers"
	ps, err := h.processes()
	if err != nil {
		return unknown(check, "/proc")
	}
	var here, bare []string
	var all []Finding
	for _, p := range ps {
		if !flagged(p.args, "--memory") || !slices.Contains(p.args, "server") {
			continue
		}
		here = append(here, p.pid)
		if !flagged(p.args, "--protect") {
			bare = append(bare, p.pid)
		} else if wrong := h.unprotected(p.pid); len(wrong) > 0 {
			all = append(all, Finding{check, Failure, "process " + p.pid + ": " + strings.Join(wrong, ", "),
				"what swaps to it waits for it, and it for what was swapped out of it", "start it again with the rights that are missing here, or run it elsewhere"})
		}
	}
	if len(all) > 0 && len(bare) == 0 {
		return all
	}
	switch {
	case len(bare) > 0:
		return append(all, Finding{check, Failure, "run here as process " + strings.Join(bare, ", "), "they wait for memory while the machine waits for them", "run them elsewhere, or with --protect"})
	case len(here) > 0:
		return []Finding{{check, Warning, "run here, with --protect, as process " + strings.Join(here, ", "), "what is swapped to them stays in the memory of this machine", "run them elsewhere"}}
	}
	return ok(check, "none on this machine")
}

// metadata: a metadata node in the swap space of its own machine cannot answer a
// client that starts again to serve that space: neither gets on. Seen in a
// guest, chaos/kernel: restart-nbd.
func metadata(h *Host) []Finding {
	const check = "metadata"
	ps, err := h.processes()
	if err != nil {
		return unknown(check, "/proc")
	}
	here := false
	var out []string
	for _, p := range ps {
		if !flagged(p.args, "--dir") || !slices.Contains(p.args, "meta") {
			continue
		}
		here = true
		if !flagged(p.args, "--protect") && !harden.KeptOut(h.Root, p.pid) {
			out = append(out, p.pid)
		}
	}
	switch {
	case len(out) > 0:
		return []Finding{{check, Failure, "a node runs here and may be swapped out, process " + strings.Join(out, ", "),
			"a client that starts again asks it before it can serve what is swapped out", "run it elsewhere, with --protect, or in a cgroup with memory.swap.max 0 (MemorySwapMax=0 in its unit)"}}
	case here:
		return ok(check, "the node on this machine is not swapped out")
	}
	return ok(check, "none on this machine")
}

// flagged reports whether a command line has a flag, with or without a value.
func flagged(args []string, flag string) bool {
	return slices.ContainsFunc(args, func(a string) bool {
		return a == flag || strings.HasPrefix(a, flag+"=") && a != flag+"=false"
	})
}

// spaces: swap space of different kinds.
func spaces(h *Host) []Finding {
	const check, file = "swap space", "/proc/swaps"
	s, found := h.text(file)
	if !found {
		return []Finding{{check, Failure, "this kernel cannot swap", "there is nothing to do for dmps", "a kernel with CONFIG_SWAP"}}
	}
	var ours, others []string
	best, theirs := -1<<31, -1<<31 // highest priorities; zram is no disk, and may come first
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) != 5 || f[0] == "Filename" {
			continue
		}
		priority, err := strconv.Atoi(f[4])
		if err != nil {
			continue
		}
		if strings.HasPrefix(f[0], "/dev/nbd") || strings.HasPrefix(f[0], "/dev/ublkb") {
			ours = append(ours, fmt.Sprintf("%s (%d)", f[0], priority))
			best = max(best, priority)
		} else {
			others = append(others, fmt.Sprintf("%s (%d)", f[0], priority))
			if !strings.HasPrefix(f[0], "/dev/zram") {
				theirs = max(theirs, priority)
			}
		}
	}
	if len(ours) > 0 && theirs == best {
		return []Finding{{check, Failure, strings.Join(append(ours, others...), ", "), "the kernel spreads over spaces of equal priority, and one that hangs takes the other with it",
			"another --swap-priority for dmps"}}
	}
	if len(ours) > 0 && theirs > best {
		return []Finding{{check, Warning, strings.Join(append(ours, others...), ", "), "the kernel fills what has the higher priority first: the disk, and dmps when that is full",
			"a higher --swap-priority for dmps"}}
	}
	if len(ours)+len(others) == 0 {
		return ok(check, "none yet")
	}
	return ok(check, "%s", strings.Join(append(ours, others...), ", "))
}

// oneEach: a volume has one device, or what is swapped out by way of one of them
// is overwritten and discarded by way of the other.
func oneEach(h *Host) []Finding {
	const check = "devices"
	all, err := h.Devices()
	if err != nil {
		return []Finding{{check, Failure, err.Error(), "attach refuses when it cannot tell whether a device waits for the volume", "look at it as root"}}
	}
	var found []Finding
	first := make(map[uint64]string)
	for _, d := range all {
		if d.Owner == 0 {
			continue // a ublk device of somebody else
		}
		if other, twice := first[d.Owner]; twice {
			found = append(found, Finding{check, Failure, other + " and " + d.Path + " are the same volume", "what was swapped out to one is overwritten by way of the other",
				"end the use of the one that was made by mistake, and disconnect it"})
			continue
		}
		first[d.Owner] = d.Path
	}
	if len(found) > 0 {
		return found
	}
	return ok(check, "%d, no volume has two", len(first))
}

// queues: devices of dmps must have the settings that package nbddev gives them.
func queues(h *Host) []Finding {
	const check = "queue"
	backends, err := fs.Glob(h.Root, "sys/block/nbd*/backend")
	if err != nil {
		return unknown(check, "/sys/block")
	}
	var all []Finding
	for _, file := range backends {
		if id, _ := h.text(file); !strings.HasPrefix(id, "dmps/") {
			continue
		}
		dir := path.Dir(file)
		dev := "/dev/" + path.Base(dir)
		var wrong []string
		if s, _ := h.text(dir + "/queue/scheduler"); s != "none" && !strings.Contains(s, "[none]") {
			wrong = append(wrong, "scheduler "+s)
		}
		for name, most := range map[string]int64{"nr_requests": 16, "max_sectors_kb": 128} {
			if n, found := h.number(dir + "/queue/" + name); !found || n > most {
				wrong = append(wrong, fmt.Sprintf("%s %d", name, n))
			}
		}
		if len(wrong) > 0 {
			slices.Sort(wrong)
			all = append(all, Finding{check, Failure, dev + ": " + strings.Join(wrong, ", "),
				"a request that does not fit into the socket's buffer can be sent in half: I/O errors", "detach and attach again: attach sets them"})
			continue
		}
		all = append(all, ok(check, "%s is set as it should be", dev)...)
	}
	return all
}

// throttling: the kernel must not make kswapd wait for the device while its reads
// take long (blockdev.Unthrottle).
func throttling(h *Host) []Finding {
	const check = "throttling"
	s, _ := h.text("/proc/swaps")
	var all []Finding
	for line := range strings.Lines(s) {
		dev, _, _ := strings.Cut(line, " ")
		name := path.Base(dev)
		dir := "sys/block/" + name
		if strings.HasPrefix(name, "nbd") {
			if id, _ := h.text(dir + "/backend"); !strings.HasPrefix(id, "dmps/") {
				continue
			}
		} else if !strings.HasPrefix(name, "ublkb") {
			continue
		}
		switch n, found := h.number(dir + "/queue/wbt_lat_usec"); {
		case found && n != 0:
			all = append(all, Finding{check, Failure, fmt.Sprintf("%s: wbt_lat_usec is %d", dev, n),
				"while reads take longer than that the kernel lets writes wait, and with them kswapd, whom everybody needs to have memory", "detach and attach again: attach turns it off"})
		default:
			all = append(all, ok(check, "writes to %s do not wait for its reads", dev)...)
		}
	}
	return all
}
