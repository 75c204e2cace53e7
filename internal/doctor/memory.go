package doctor

import (
	"fmt"
	"strings"
)

// leastReserve is what the kernel should keep free for allocations that cannot
// wait, in KiB: network buffers of what is swapped out.
const leastReserve = 48 << 10

func reserve(h *Host) []Finding {
	const check, path = "min_free_kbytes", "/proc/sys/vm/min_free_kbytes"
	n, found := h.number(path)
	if !found {
		return unknown(check, path)
	}
	if n < leastReserve {
		return []Finding{{check, Failure, fmt.Sprintf("%d KiB", n), "swapping out over the network takes buffers when there is no memory; without a reserve it stalls",
			fmt.Sprintf("sysctl vm.min_free_kbytes=%d; the same line in /etc/sysctl.d/dmps.conf", 64<<10)}}
	}
	return ok(check, "%d KiB", n)
}

func swappiness(h *Host) []Finding {
	const check, path = "swappiness", "/proc/sys/vm/swappiness"
	n, found := h.number(path)
	if !found {
		return unknown(check, path)
	}
	if n == 0 {
		return []Finding{{check, Warning, "0", "the kernel then swaps only when it is almost too late", "sysctl vm.swappiness=60, or 100 and more where swap is faster than the disk"}}
	}
	return ok(check, "%d", n)
}

func readahead(h *Host) []Finding {
	const check, path = "page-cluster", "/proc/sys/vm/page-cluster"
	n, found := h.number(path)
	if !found {
		return unknown(check, path)
	}
	if n > 5 {
		return []Finding{{check, Warning, fmt.Sprint(n), "a page fault reads more than the 128 KiB of one transfer, most of it in vain", "sysctl vm.page-cluster=3"}}
	}
	return ok(check, "%d: a page fault reads up to %d KiB", n, 4<<n)
}

func zswap(h *Host) []Finding {
	s, found := h.text("/sys/module/zswap/parameters/enabled")
	if found && (s == "Y" || s == "1") {
		return []Finding{{"zswap", Warning, "it is on", "it keeps pages in this machine's memory, packed, and writes them out late and all at once", "echo N >/sys/module/zswap/parameters/enabled, if that is not wanted"}}
	}
	return ok("zswap", "off")
}

// programText: what a program is read from must not be swap space's own victim.
func programText(h *Host) []Finding {
	const check, path = "program", "/proc/self/mounts"
	s, found := h.text(path)
	if !found {
		return unknown(check, path)
	}
	kind, at := "", ""
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		dir := strings.TrimSuffix(f[1], "/") + "/"
		if strings.HasPrefix(h.Program, dir) && len(dir) >= len(at) {
			kind, at = f[2], dir
		}
	}
	if kind == "tmpfs" {
		return []Finding{{check, Warning, h.Program + " lies on a tmpfs", "what is not locked of it can be swapped out, to the device that it serves", "put it on a disk, or on a ramfs"}}
	}
	return ok(check, "%s, on %s", h.Program, kind)
}
