package scenario

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// bad are words of the kernel's log that must not come up while dmps serves.
var bad = []string{
	"I/O error", "Read-error on swap-device", "Write-error on swap-device", "Unexpected reply", "blocked for more than",
	"Out of memory: Killed process", "Oops", "BUG:", "WARNING: CPU", "soft lockup", "rcu_preempt self-detected", "Double reply",
}

// kmsg follows the kernel's log from now on.
type kmsg struct {
	mu    sync.Mutex
	lines []string // that say something bad
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
	go func() {
		buf := make([]byte, 8192) // a read is one record
		for {
			n, err := f.Read(buf)
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				if strings.Contains(err.Error(), "broken pipe") {
					continue // records were overwritten
				}
				return
			}
			_, text, _ := strings.Cut(string(buf[:n]), ";")
			text, _, _ = strings.Cut(text, "\n")
			for _, b := range bad {
				if strings.Contains(text, b) {
					k.mu.Lock()
					k.lines = append(k.lines, text)
					k.mu.Unlock()
				}
			}
		}
	}()
	return k, nil
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
