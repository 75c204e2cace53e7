package scenario

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// bad are words of the kernel's log that must not come up while dmps serves.
var bad = []string{
	"I/O error", "Read-error on swap-device", "Write-error on swap-device", "Unexpected reply", "blocked for more than",
	"Out of memory: Killed process", "Memory cgroup out of memory", "Oops", "BUG:", "WARNING: CPU", "soft lockup", "rcu_preempt self-detected", "Double reply",
}

// kmsg follows the kernel's log from now on.
type kmsg struct {
	mu       sync.Mutex
	lines    []string // that say something bad
	expected []string // of bad
}

// expect takes words that are not bad this time.
func (k *kmsg) expect(words ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.expected = words
}

func followKmsg() (*kmsg, error) {
	f, err := os.Open("/dev/kmsg")
	if err != nil {
		return nil, fmt.Errorf("following the kernel's log: %w", err)
	}
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(fmt.Errorf("following the kernel's log: %w", err), f.Close())
	}
	k := new(kmsg)
	go k.read(f)
	return k, nil
}

// read takes records until that fails, which is as bad as anything in them.
func (k *kmsg) read(f *os.File) {
	buf := make([]byte, 8192) // a read is one record
	for {
		n, err := f.Read(buf)
		if errors.Is(err, unix.EPIPE) {
			continue // records were overwritten before they were read
		}
		if err != nil {
			k.add(fmt.Sprintf("cannot be followed any more: %v", err))
			return
		}
		_, text, _ := strings.Cut(string(buf[:n]), ";")
		text, _, _ = strings.Cut(text, "\n")
		k.take(text)
	}
}

// take keeps a line that says something bad.
func (k *kmsg) take(text string) {
	says := func(b string) bool { return strings.Contains(text, b) }
	k.mu.Lock()
	expected := slices.ContainsFunc(k.expected, says)
	k.mu.Unlock()
	if !expected && slices.ContainsFunc(bad, says) {
		k.add(text)
	}
}

func (k *kmsg) add(line string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lines = append(k.lines, line)
}

// err is what was bad.
func (k *kmsg) err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.lines) == 0 {
		return nil
	}
	return fmt.Errorf("the kernel's log: %s", strings.Join(k.lines[:min(len(k.lines), 5)], "; "))
}
