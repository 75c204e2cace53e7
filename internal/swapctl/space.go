package swapctl

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// Space is swap space that the kernel uses.
type Space struct {
	Path       string
	Size, Used int64 // bytes
	Priority   int
	Device     bool // a block device, no file
}

// Spaces reads /proc/swaps.
func Spaces() ([]Space, error) {
	f, err := os.Open("/proc/swaps")
	if os.IsNotExist(err) {
		return nil, nil // a kernel without swap
	}
	if err != nil {
		return nil, fmt.Errorf("listing swap space: %w", err)
	}
	defer f.Close() // read only
	return parseSpaces(f)
}

// Find is the space at path, nil when the kernel does not swap to it. The kernel names
// the file that swapon was given, which may be another node of the same device.
func Find(path string) (*Space, error) {
	all, err := Spaces()
	if err != nil {
		return nil, err
	}
	return find(all, path, number), nil
}

func find(all []Space, path string, number func(path string) (uint64, bool)) *Space {
	own, device := number(path)
	for _, s := range all {
		if s.Path == path {
			return &s
		}
		if !device || !s.Device {
			continue
		}
		if n, ok := number(s.Path); ok && n == own {
			return &s
		}
	}
	return nil
}

// number is that of a block device; false: there is none at path.
func number(path string) (uint64, bool) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, false
	}
	return st.Rdev, true
}

// parseSpaces reads a header line and then lines of
//
//	/dev/nbd0  partition  131068  4096  -2
//
// with sizes in KiB and blanks in paths as \040.
func parseSpaces(r io.Reader) ([]Space, error) {
	var all []Space
	s := bufio.NewScanner(r)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) == 0 || f[0] == "Filename" {
			continue
		}
		if len(f) != 5 {
			return nil, fmt.Errorf("listing swap space: a line of %d fields: %q", len(f), s.Text())
		}
		var n [3]int64
		for i := range n {
			v, err := strconv.ParseInt(f[i+2], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("listing swap space: %w", err)
			}
			n[i] = v
		}
		all = append(all, Space{Path: unescape(f[0]), Size: n[0] << 10, Used: n[1] << 10, Priority: int(n[2]), Device: f[1] == "partition"})
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("listing swap space: %w", err)
	}
	return all, nil
}

// unescape undoes the kernel's octal escapes.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Fit is whether what lies in a swap space has somewhere to go.
type Fit struct {
	Used      int64 // bytes that must come back
	Available int64 // bytes of memory that can take them (MemAvailable)
	Elsewhere int64 // free bytes of other swap spaces that are not memory of this machine
}

// margin is what must be left of memory when all is back, of what is available.
const margin = 10 // percent

// Fits reports whether swapoff can succeed without the OOM killer.
func (f Fit) Fits() bool { return f.Used <= f.Available-f.Available/100*margin+f.Elsewhere }

// Measure tells how a swap space would fit.
func Measure(path string) (Fit, error) {
	all, err := Spaces()
	if err != nil {
		return Fit{}, err
	}
	available, err := availableIn(procfs.DefaultMountPoint)
	if err != nil {
		return Fit{}, err
	}
	if s := find(all, path, number); s != nil {
		path = s.Path
	}
	return measure(all, path, available)
}

func measure(all []Space, path string, available int64) (Fit, error) {
	fit := Fit{Available: available}
	found := false
	for _, s := range all {
		switch {
		case s.Path == path:
			fit.Used, found = s.Used, true
		case strings.HasPrefix(s.Path, "/dev/zram"): // what goes there takes memory
		default:
			fit.Elsewhere += s.Size - s.Used
		}
	}
	if !found {
		return Fit{}, fmt.Errorf("the kernel does not swap to %s", path)
	}
	return fit, nil
}

// availableIn is how many bytes of memory the machine has available whose /proc is given.
func availableIn(proc string) (int64, error) {
	dir, err := procfs.NewFS(proc)
	if err != nil {
		return 0, fmt.Errorf("how much memory is available: %w", err)
	}
	info, err := dir.Meminfo()
	if err != nil {
		return 0, fmt.Errorf("how much memory is available: %w", err)
	}
	if info.MemAvailableBytes == nil {
		return 0, errors.New("how much memory is available: no MemAvailable in /proc/meminfo")
	}
	return int64(*info.MemAvailableBytes), nil
}
