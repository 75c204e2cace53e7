package uring

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Memory is memory whose address a submission may carry. The kernel uses such an
// address while the goroutine goes on, and the runtime moves a goroutine's stack
// whenever it likes: what lay there is somebody else's by then. This memory is
// mapped. It never moves, and no garbage collector knows of it.
type Memory struct{ mem []byte }

// NewMemory maps size bytes of zeros, at least one. Its user calls Free.
func NewMemory(size int) (*Memory, error) {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("mapping %d bytes for the kernel: %w", size, err)
	}
	return &Memory{mem}, nil
}

// Bytes is the memory, until Free.
func (m *Memory) Bytes() []byte { return m.mem }

// Addr is where it lies, for a submission.
func (m *Memory) Addr() uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(m.mem)))) }

// Free gives the memory back. No submission that carries its address may be
// without its completion: the kernel would write to what comes there next.
func (m *Memory) Free() error {
	err := unix.Munmap(m.mem)
	m.mem = nil
	if err != nil {
		return fmt.Errorf("unmapping memory: %w", err)
	}
	return nil
}
