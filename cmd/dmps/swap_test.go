package main

import (
	"errors"
	"strings"
	"testing"

	"dmps/client/nbddev"
	"dmps/client/ublk"
)

// untunable is a device whose queue cannot be set.
type untunable struct{ fakeDevice }

var errUntunable = errors.New("the queue cannot be set")

func (untunable) Tune() error { return errUntunable }

// The kernel does not begin to swap to a device whose queue is not as it should be.
func TestSwapNeedsItsQueue(t *testing.T) {
	s := swapFlags{on: true}
	if err := s.start(untunable{}, 1<<20, "v", (&app{err: new(strings.Builder)}).logger()); !errors.Is(err, errUntunable) {
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
