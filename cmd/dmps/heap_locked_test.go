package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"dmps/internal/bytesize"
	"dmps/internal/memlock"
)

// lockedHeapVariable makes this test binary a process that loses its locked heap:
// the locks last as long as the process.
const lockedHeapVariable = "DMPS_TEST_LOCKED_HEAP"

// TestLockedHeapIsFilledAgain: what the runtime gives back of a locked heap is in
// memory again soon, and not only when it is next used.
func TestLockedHeapIsFilledAgain(t *testing.T) {
	if err := memlock.MayLock(); err != nil {
		t.Skipf("this process may not lock its memory: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), lockedHeapVariable+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v: %s", err, out)
	}
}

// loseHeap settles a locked heap, gives most of it back and waits for it.
func loseHeap() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := memlock.Lock(); err != nil {
		return err
	}
	if err := settleHeap(ctx, 64*bytesize.MiB, true, clientReserve, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	before, err := residentKiB()
	if err != nil {
		return err
	}
	debug.FreeOSMemory()
	low, err := residentKiB()
	if err != nil {
		return err
	}
	if low > before-int(clientReserve>>10)/2 {
		return fmt.Errorf("nothing to look for: %d KiB resident, %d after giving memory back", before, low)
	}
	const slack = 1024
	for end := time.Now().Add(6 * heapLook); time.Now().Before(end); time.Sleep(heapLook / 10) {
		now, err := residentKiB()
		if err != nil {
			return err
		}
		if now > before-slack {
			return nil
		}
		low = max(low, now)
	}
	return fmt.Errorf("%d KiB resident of %d", low, before)
}

func residentKiB() (int, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var n int
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &n); err == nil {
			return n, nil
		}
	}
	return 0, errors.New("no VmRSS in /proc/self/status")
}
