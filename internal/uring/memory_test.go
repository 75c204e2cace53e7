package uring_test

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"dmps/internal/uring"
)

// The kernel writes where a submission says, whatever happens to the stack of
// the goroutine that waits.
func TestMemoryStaysWhereItIs(t *testing.T) {
	m, err := uring.NewMemory(64)
	if err != nil {
		t.Fatal(err)
	}
	at := m.Addr()
	if at%uint64(os.Getpagesize()) != 0 || len(m.Bytes()) != 64 {
		t.Errorf("%d bytes at %#x, which is no mapping", len(m.Bytes()), at)
	}
	m.Bytes()[63] = 1
	grow(1000)
	if m.Addr() != at || m.Bytes()[63] != 1 {
		t.Errorf("it moved from %#x to %#x", at, m.Addr())
	}
	if err := m.Free(); err != nil {
		t.Fatal(err)
	}
	// Memory of the heap would still be there.
	var resident byte
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(at), 1, uintptr(unsafe.Pointer(&resident))); errno != unix.ENOMEM {
		t.Errorf("something is mapped there after Free: %v", errno)
	}
	if _, err := uring.NewMemory(0); err == nil {
		t.Error("no bytes were mapped")
	}
}

// grow makes the goroutine's stack larger, which moves it.
func grow(n int) int {
	var frame [512]byte
	frame[n%512] = byte(n)
	if n == 0 {
		return int(frame[0])
	}
	return grow(n-1) + int(frame[1])
}
