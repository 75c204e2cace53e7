package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
