package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"dmps/client/nbddev"
	"dmps/client/ublk"
	"dmps/internal/swapctl"
)

// fileDevice is a file in the place of a device.
type fileDevice struct {
	fakeDevice
	path string
}

func (d fileDevice) Path() string { return d.path }

// Swap space is made by another process, whose answers come back whole.
func TestFormatApart(t *testing.T) {
	const size = 4 << 20
	path := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	dev := fileDevice{path: path}
	quiet := slog.New(slog.DiscardHandler)
	s := &swapFlags{on: true}
	for i, want := range []bool{true, false} {
		if p, on, err := s.prepare(t.Context(), dev, size, "swap0", quiet); p.Made != want || p.Dead != want || on || err != nil {
			t.Errorf("time %d: %+v, in use %v, %v", i, p, on, err)
		}
	}
	if _, _, err := s.prepare(t.Context(), dev, size, "other", quiet); !errors.Is(err, swapctl.ErrNotEmpty) {
		t.Errorf("with another label: %v", err)
	}
	s.force = true
	if p, _, err := s.prepare(t.Context(), dev, size, "other", quiet); !p.Made || !p.Dead || err != nil {
		t.Errorf("by force: %+v, %v", p, err)
	}
	if _, _, err := s.prepare(t.Context(), fileDevice{path: path + "none"}, size, "x", quiet); err == nil {
		t.Error("no device became swap space")
	}
}

// A device that somebody uses is refused at once; one that an earlier client's call
// has is waited for.
func TestUntilUnused(t *testing.T) {
	for name, c := range map[string]struct {
		calls int
		free  time.Duration // after this, it can be had
		took  time.Duration // at most
		ok    bool
	}{
		"free":               {0, 0, 0, true},
		"looked at":          {0, lookPatience / 2, lookPatience, true},
		"used":               {0, time.Hour, lookPatience + 2*claimPoll, false},
		"in a call":          {1, claimPatience / 2, claimPatience, true},
		"in a call for ever": {1, time.Hour, claimPatience + 2*claimPoll, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				err := untilUnused(t.Context(), func() ([]int, error) { return make([]int, c.calls), nil }, func() error {
					if time.Since(began) < c.free {
						return fmt.Errorf("opening: %w", unix.EBUSY)
					}
					return nil
				})
				if took := time.Since(began); (err == nil) != c.ok || took > c.took {
					t.Errorf("after %v: %v", took, err)
				}
			})
		})
	}
	// A try that waits for a call fails when the call has ended, and then finds
	// what that has done.
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		if err := untilUnused(t.Context(), func() ([]int, error) { return nil, nil }, func() error {
			if tries++; tries > 1 {
				return nil
			}
			time.Sleep(claimPatience / 4)
			return unix.EBUSY
		}); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := untilUnused(ctx, func() ([]int, error) { return []int{1}, nil }, func() error { return unix.EBUSY }); !errors.Is(err, unix.EBUSY) {
		t.Errorf("told to end: %v", err)
	}
	broken := errors.New("broken")
	if err := untilUnused(t.Context(), func() ([]int, error) { return nil, broken }, func() error { return unix.EBUSY }); !errors.Is(err, broken) {
		t.Errorf("nobody can tell: %v", err)
	}
}

// A client that is told to end while its device does not answer has not failed.
func TestToldToEndBeforeSwapping(t *testing.T) {
	path := filepath.Join(t.TempDir(), "silent")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	s := &swapFlags{on: true}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	quiet := slog.New(slog.DiscardHandler)
	if err := s.start(ctx, fileDevice{path: path}, 4<<20, "v", quiet); err != nil {
		t.Error(err)
	}
	if err := s.start(t.Context(), fileDevice{path: path + "none"}, 4<<20, "v", quiet); err == nil {
		t.Error("no device became swap space")
	}
}

// untunable is a device whose queue cannot be set.
type untunable struct{ fakeDevice }

var errUntunable = errors.New("the queue cannot be set")

func (untunable) Tune(context.Context) error { return errUntunable }

// The kernel does not begin to swap to a device whose queue is not as it should be.
func TestSwapNeedsItsQueue(t *testing.T) {
	s := swapFlags{on: true}
	if err := s.start(t.Context(), untunable{}, 1<<20, "v", (&app{err: new(strings.Builder)}).logger()); !errors.Is(err, errUntunable) {
		t.Error(err)
	}
}

// A device that can fail by itself says so to attach, of either kind.
func TestFailing(t *testing.T) {
	if ch, _ := failing(fakeDevice{}); ch != nil {
		t.Error("a device that cannot tell")
	}
	for name, dev := range map[string]kernelDevice{"nbd": new(nbddev.Front), "ublk": &ublkDevice{new(ublk.Server)}} {
		if _, ok := dev.(fallible); !ok {
			t.Errorf("%s: nobody notices when the device is taken away", name)
		}
	}
}
