package doctor

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"dmps/internal/harden"
	"dmps/internal/procstat"
)

// process is one that runs this program.
type process struct {
	pid  string
	args []string
}

// processes are those that run this program, whatever they do.
func (h *Host) processes() ([]process, error) {
	files, err := fs.Glob(h.Root, "proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var all []process
	for _, file := range files {
		b, err := fs.ReadFile(h.Root, file)
		if err != nil {
			continue // it has ended
		}
		var args []string
		for a := range bytes.SplitSeq(bytes.TrimRight(b, "\x00"), []byte{0}) {
			args = append(args, string(a))
		}
		if len(args) > 0 && path.Base(args[0]) == path.Base(h.Program) {
			all = append(all, process{strings.Split(file, "/")[1], args})
		}
	}
	return all, nil
}

// clients: a client that serves a device of this kernel must be protected from
// waiting for itself, each of its threads, now.
func clients(h *Host) []Finding {
	const check = "client"
	ps, err := h.processes()
	if err != nil {
		return unknown(check, "/proc")
	}
	var all []Finding
	for _, p := range ps {
		if !slices.Contains(p.args, "attach") || !flagged(p.args, "--device") {
			continue
		}
		wrong := h.unprotected(p.pid)
		if len(wrong) > 0 {
			all = append(all, Finding{check, Failure, "process " + p.pid + ": " + strings.Join(wrong, ", "),
				"the kernel waits for it when memory is short, and it for memory", "attach it again with the rights that are missing here, without --allow-unprotected"})
			continue
		}
		all = append(all, ok(check, "process %s is locked in memory, an I/O flusher, and scheduled before others", p.pid)...)
	}
	return all
}

// unprotected is what a process lacks. One that ends meanwhile lacks nothing.
func (h *Host) unprotected(pid string) (wrong []string) {
	dir := "proc/" + pid
	stats, err := fs.Glob(h.Root, dir+"/task/[0-9]*/stat")
	if err != nil {
		return []string{"its threads cannot be seen"}
	}
	flusher, ordinary, fifo := 0, 0, 0
	for _, file := range stats {
		b, err := fs.ReadFile(h.Root, file)
		if err != nil {
			continue // it has ended
		}
		t, err := procstat.Parse(b)
		if err != nil {
			return []string{"its threads cannot be understood: " + err.Error()}
		}
		if !harden.Flusher(t) {
			flusher++
		}
		switch t.Policy {
		case unix.SCHED_RR:
		case unix.SCHED_FIFO:
			fifo++
		default:
			ordinary++
		}
	}
	if flusher > 0 {
		wrong = append(wrong, fmt.Sprintf("%d of %d threads are no I/O flushers", flusher, len(stats)))
	}
	if ordinary > 0 {
		wrong = append(wrong, fmt.Sprintf("%d of %d threads are not scheduled before ordinary ones (SCHED_RR)", ordinary, len(stats)))
	}
	if fifo > 0 {
		wrong = append(wrong, fmt.Sprintf("%d of %d threads are SCHED_FIFO, which spins for good where SCHED_RR gives way", fifo, len(stats)))
	}
	if n, found := h.number(dir + "/oom_score_adj"); found && n != -1000 {
		wrong = append(wrong, fmt.Sprintf("oom_score_adj %d", n))
	}
	if h.exists(dir+"/cgroup") && !harden.KeptOut(h.Root, pid) {
		wrong = append(wrong, "its cgroup may swap")
	}
	s, _ := h.text(dir + "/status")
	for line := range strings.Lines(s) {
		key, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); {
		case key == "VmLck" && value == "0 kB":
			wrong = append(wrong, "its memory is not locked")
		case key == "VmSwap" && value != "0 kB":
			wrong = append(wrong, value+" of it are swapped out")
		}
	}
	return wrong
}
