package doctor

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"dmps/internal/blockdev"
)

// Host is a machine as the checks see it.
type Host struct {
	Root    fs.FS                      // "/", for proc and sys
	Release string                     // of the kernel, uname -r
	Capable func(capability uint) bool // CAP_* that this process has
	Memlock uint64                     // RLIMIT_MEMLOCK, bytes; ^0 is no limit
	RTPrio  uint64                     // RLIMIT_RTPRIO
	Program string                     // path of this program
	Want    string                     // the front end that will be used: NBD, Ublk or Auto
	Ublk    func() error               // ublk.Supported: nil, or what is missing
	NBD     func() error               // nbddev.Supported, likewise

	Protect func() error // harden.Try, likewise

	// Devices are those that the kernel has for volumes (hostdev.List).
	Devices func() ([]blockdev.Device, error)
}

// Verdict is how bad a finding is.
type Verdict string

const (
	OK      Verdict = "ok"
	Warning Verdict = "warning" // works, until something else goes wrong
	Failure Verdict = "failure" // attach refuses, or the machine will hang
)

// Finding is what one check says.
type Finding struct {
	Check   string  `json:"check"`
	Verdict Verdict `json:"verdict"`
	Found   string  `json:"found"`
	Why     string  `json:"why,omitempty"` // it matters; empty when OK
	Fix     string  `json:"fix,omitempty"` // a command, or what to change
}

// Examine runs all checks.
func Examine(h *Host) []Finding {
	var all []Finding
	for _, r := range requirements {
		all = append(all, r.check(h)...)
	}
	for _, check := range []func(*Host) []Finding{
		reserve, swappiness, readahead, zswap, programText,
		servers, metadata, clients, spaces, oneEach, queues, throttling,
	} {
		all = append(all, check(h)...)
	}
	return all
}

// Worst is the worst verdict.
func Worst(all []Finding) Verdict {
	worst := OK
	for _, f := range all {
		if f.Verdict == Failure || f.Verdict == Warning && worst == OK {
			worst = f.Verdict
		}
	}
	return worst
}

// text is the content of a file, without the last newline; "" when there is
// none that can be read, which found tells apart.
func (h *Host) text(path string) (content string, found bool) {
	b, err := fs.ReadFile(h.Root, strings.TrimPrefix(path, "/"))
	return strings.TrimSpace(string(b)), err == nil
}

// number is the number in a file.
func (h *Host) number(path string) (int64, bool) {
	s, ok := h.text(path)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

func (h *Host) exists(path string) bool {
	_, err := fs.Stat(h.Root, strings.TrimPrefix(path, "/"))
	return err == nil
}

// unknown is a finding about something that cannot be read.
func unknown(check, path string) []Finding {
	return []Finding{{check, Warning, path + " cannot be read", "nobody can tell whether it is as it should be", "look at it as root"}}
}

func ok(check, format string, a ...any) []Finding {
	return []Finding{{Check: check, Verdict: OK, Found: fmt.Sprintf(format, a...)}}
}
