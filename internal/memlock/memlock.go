// Package memlock keeps a process in memory.
//
// A client that is swapped out while its machine swaps to it waits for itself,
// and a server that lends swapped-out memory lends a disk. Lock is called once,
// early; Populate again whenever much was allocated that must not fault later.
//
// The plain way, mlockall(MCL_CURRENT|MCL_FUTURE), also fills the address space
// that the Go runtime reserves for its books and hardly uses: measured, 150 MB
// in a process whose heap has 8. So pages are locked as they are first touched
// (MCL_ONFAULT), and what must not fault even once is filled at once: the
// program itself and the heap.
package memlock

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"dmps/internal/capability"
)

// ErrDenied means that the process may not lock (all) its memory: run it as
// root or with CAP_IPC_LOCK, raise the limit, or go on unlocked and say so.
var ErrDenied = errors.New("memory cannot be locked")

// Lock locks all present and future memory of the process, and fills the
// mappings of the program itself and of the heap as it is now. Errors: ErrDenied.
func Lock() error {
	if err := MayLock(); err != nil {
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("%w: mlockall: %w", ErrDenied, err)
	}
	return Populate()
}

// MayLock asks whether all memory, of the future too, can be locked. With a limit, the
// call would succeed now and a mapping of the Go runtime fail later, which ends
// the process.
func MayLock() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return fmt.Errorf("reading the limit: %w", err)
	}
	if limit.Cur == unix.RLIM_INFINITY || capability.Has(unix.CAP_IPC_LOCK) {
		return nil
	}
	limit.Cur = limit.Max
	if limit.Max == unix.RLIM_INFINITY {
		return unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit)
	}
	return fmt.Errorf("the limit is %d KiB", limit.Max>>10)
}

// Populate fills and locks what the program and the Go heap consist of now, so
// that nothing of it faults any more. Errors: ErrDenied.
func Populate() error {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("locking memory: %w", err)
	}
	defer f.Close()
	var maps []mapping
	for lines := bufio.NewScanner(f); ; {
		if !lines.Scan() {
			if err := lines.Err(); err != nil {
				return fmt.Errorf("locking memory: %w", err)
			}
			break
		}
		m, err := parseMapping(lines.Text())
		if err != nil {
			return fmt.Errorf("locking memory: %w", err)
		}
		maps = append(maps, m)
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("locking memory: %w", err)
	}
	heap := heapAddress()
	for _, m := range maps {
		if !m.hot(exe, heap) {
			continue
		}
		if err := mlock(m); err != nil {
			return fmt.Errorf("%w: %d KiB of %s: %w", ErrDenied, (m.end-m.start)>>10, m.what(), err)
		}
	}
	return nil
}

// heapAddress is an address in the Go heap.
func heapAddress() uintptr {
	b := make([]byte, 1<<20) // too large for a stack
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))
}

// mapping is a line of /proc/self/maps.
type mapping struct {
	start, end uintptr
	readable   bool
	path       string
}

// heapSpan is how far from an address in the Go heap its other parts lie at most.
// It begins anywhere (Go 1.26) and grows upwards; everything else that the runtime
// maps lies far away, among the mappings of the kernel's choice.
const heapSpan = 1 << 39

// hot reports whether the mapping is part of the program or of the heap. The
// program's zero-initialised data has no path and follows its file's mappings;
// most of it is the runtime's, and never touched.
func (m *mapping) hot(exe string, heap uintptr) bool {
	switch {
	case !m.readable:
		return false // reserved
	case m.path != "":
		return m.path == exe
	}
	return m.start < heap+heapSpan && heap < m.end+heapSpan
}

func (m *mapping) what() string {
	if m.path != "" {
		return m.path
	}
	return "the heap"
}

var errMaps = errors.New("malformed line in /proc/self/maps")

// parseMapping reads a line of /proc/PID/maps (proc_pid_maps(5)).
func parseMapping(line string) (mapping, error) {
	f := strings.Fields(line)
	if len(f) < 5 {
		return mapping{}, fmt.Errorf("%w: %q", errMaps, line)
	}
	from, to, ok := strings.Cut(f[0], "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if !ok || err1 != nil || err2 != nil || end < start {
		return mapping{}, fmt.Errorf("%w: %q", errMaps, line)
	}
	m := mapping{start: uintptr(start), end: uintptr(end), readable: strings.HasPrefix(f[1], "r")}
	if len(f) > 5 {
		m.path = strings.Join(f[5:], " ")
	}
	return m, nil
}

func mlock(m mapping) error {
	_, _, errno := unix.Syscall(unix.SYS_MLOCK, m.start, m.end-m.start, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
