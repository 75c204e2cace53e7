package scenario

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const page = 4096

// Hog fills mib MiB of memory with words that nobody else would write there,
// again and again, and verifies each page before it writes the next version,
// until ctx ends and it has verified all of it once more. progress is called
// after each turn.
func Hog(ctx context.Context, mib int, seed uint64, progress func(turn, pages int)) error {
	mem, err := unix.Mmap(-1, 0, mib<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("hog: %w", err)
	}
	h := &hog{mem: mem, seed: seed, version: make([]uint32, len(mem)/page)}
	for i := range h.version {
		h.write(i)
	}
	progress(0, len(h.version))
	rng := rand.New(rand.NewPCG(seed, 1))
	for turn := 1; ; turn++ {
		// In order and at random by turns: readahead helps one of them. A page
		// fault under emulation takes milliseconds, so that a quarter has to do
		// for the other.
		pages, order := len(h.version), []int(nil)
		if turn%2 == 0 {
			order = rng.Perm(pages)
			pages /= 4
		}
		for at := range pages {
			i := at
			if order != nil {
				i = order[at]
			}
			if err := h.verify(i); err != nil {
				return err
			}
			if rng.IntN(2) == 0 {
				h.write(i)
			}
		}
		progress(turn, pages)
		if ctx.Err() != nil {
			return h.verifyAll()
		}
	}
}

type hog struct {
	mem     []byte
	seed    uint64
	version []uint32 // of each page
}

// word is what lies at a place: never zero, and not to be compressed.
func (h *hog) word(i, at int) uint64 {
	x := h.seed ^ uint64(i)<<32 ^ uint64(h.version[i])<<12 ^ uint64(at)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31 | 1
}

// A page under emulation costs microseconds a word: a few words of each 512
// bytes tell a wrong page, or a torn one, as well as all would.
const stride = 64

func (h *hog) write(i int) {
	h.version[i]++
	p := h.mem[i*page:][:page]
	for at := 0; at < page; at += stride {
		binary.LittleEndian.PutUint64(p[at:], h.word(i, at))
	}
}

func (h *hog) verifyAll() error {
	for i := range h.version {
		if err := h.verify(i); err != nil {
			return err
		}
	}
	return nil
}

func (h *hog) verify(i int) error {
	p := h.mem[i*page:][:page]
	for at := 0; at < page; at += stride {
		if got, want := binary.LittleEndian.Uint64(p[at:]), h.word(i, at); got != want {
			return fmt.Errorf("hog: page %d, byte %d: %#x, not %#x of version %d", i, at, got, want, h.version[i])
		}
	}
	return nil
}

// Limits of a cgroup that swaps.
const cgroupRoot = "/sys/fs/cgroup"

// tight makes a cgroup that has so much memory, and swaps the rest. It is held to
// that by memory.high, which makes its processes wait while their pages are
// being written out. With memory.max alone the kernel (6.12, multi-generational
// LRU) now and then kills them instead: it looks at the pages sixteen times, all of
// them on their way to an emulated device, and calls that out of memory.
func tight(name string, mib int) (string, error) {
	dir := filepath.Join(cgroupRoot, name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("a cgroup: %w", err)
	}
	for _, w := range [][2]string{
		{filepath.Join(cgroupRoot, "cgroup.subtree_control"), "+memory"},
		{filepath.Join(dir, "memory.high"), strconv.Itoa(mib << 20)},
		{filepath.Join(dir, "memory.max"), strconv.Itoa(mib << 20 * 3 / 2)},
	} {
		if err := os.WriteFile(w[0], []byte(w[1]), 0); err != nil {
			return "", fmt.Errorf("a cgroup: %w", err)
		}
	}
	return dir, nil
}

// vmstat reads counters of /proc/vmstat.
func vmstat(names ...string) (map[string]int64, error) {
	b, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return nil, fmt.Errorf("counting swaps: %w", err)
	}
	m := make(map[string]int64)
	for line := range strings.Lines(string(b)) {
		name, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		for _, n := range names {
			if n == name {
				if m[n], err = strconv.ParseInt(v, 10, 64); err != nil {
					return nil, fmt.Errorf("counting swaps: %w", err)
				}
			}
		}
	}
	return m, nil
}

// hogging is a hog at work.
type hogging struct {
	*process
	began time.Time
}

// startHog runs a hog in a cgroup with so much memory, or in the whole machine
// with 0.
func (g *Guest) startHog(mib, limitMiB int) (*hogging, error) {
	dir := ""
	if limitMiB > 0 {
		var err error
		if dir, err = tight("hog", limitMiB); err != nil {
			return nil, err
		}
	}
	p, err := g.start("hog", dir, "/init", "hog", strconv.Itoa(mib), strconv.FormatUint(g.Seed, 10))
	return &hogging{p, time.Now()}, err
}

// turns is how often a hog has been through its memory, the first fill included.
func (h *hogging) turns() int {
	return strings.Count(h.tail(1<<20), "turn ")
}

// finish has a hog verify everything once more, and waits for its end.
func (h *hogging) finish(ctx context.Context) error {
	if err := h.signal(unix.SIGTERM); err != nil {
		return err
	}
	return h.wait(ctx)
}
