package rig

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"
)

func TestFindAndFlip(t *testing.T) {
	const size = 9 << 20
	mem, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Munmap(mem); err != nil {
			t.Error(err)
		}
	}()
	pattern := []byte("a page that is looked for")
	for _, p := range []int{0, 700, size/pageSize - 1} {
		copy(mem[p*pageSize:], pattern)
	}
	copy(mem[5*pageSize+8:], pattern) // not at the start of a page
	got, err := FindPages(os.Getpid(), size, func(p []byte) bool { return bytes.HasPrefix(p, pattern) })
	if errors.Is(err, os.ErrPermission) {
		t.Skip(err)
	}
	if err != nil || len(got) != 3 || got[1]-got[0] != 700*pageSize || got[2]-got[0] != size-pageSize {
		t.Fatalf("%#x, %v", got, err)
	}
	if err := FlipByte(os.Getpid(), got[1]+3); err != nil {
		t.Fatal(err)
	}
	if mem[700*pageSize+3] != pattern[3]^0x40 || mem[3] != pattern[3] {
		t.Error("another byte was changed")
	}
}
