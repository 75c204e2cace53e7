package uring

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A kernel that cannot just now is not asked again at once, unless there is
// something to take.
func TestBusy(t *testing.T) {
	head, tail := uint32(0), uint32(0)
	r := &Ring{cqHead: &head, cqTail: &tail}
	began := time.Now()
	for _, err := range []error{unix.EAGAIN, unix.EBUSY} {
		if err := r.entered(err); err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(began); took < 2*pause {
		t.Errorf("asked again after %v", took)
	}
	if n := testing.AllocsPerRun(10, func() { _ = r.entered(unix.EAGAIN) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if err := r.entered(unix.EBADF); !errors.Is(err, unix.EBADF) {
		t.Errorf("a ring that is closed: %v", err)
	}
}
