package badmem

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"unsafe"
)

// Arena is the memory that a server lends.
type Arena struct {
	pid      int
	at, size int64
}

// ErrUnable says that the memory cannot be damaged so: that is not permitted here, or
// too little is stored in it.
var ErrUnable = errors.New("the memory cannot be damaged")

func unable(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrUnable, fmt.Sprintf(format, a...))
}

// Own is the arena of a server in this process.
func Own(mem []byte) Arena {
	return Arena{pid: os.Getpid(), at: int64(uintptr(unsafe.Pointer(&mem[0]))), size: int64(len(mem))}
}

// Of finds the arena of a server's process: the largest mapping that it keeps from
// children. Errors: ErrUnable.
func Of(pid int) (Arena, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return Arena{}, unable("%v", err)
	}
	defer f.Close()
	a := Arena{pid: pid}
	var from, to int64
	for s := bufio.NewScanner(f); s.Scan(); {
		w := strings.Fields(s.Text())
		if len(w) == 0 {
			continue
		}
		if first, last, ok := strings.Cut(w[0], "-"); ok && len(w) >= 5 {
			x, err1 := strconv.ParseInt(first, 16, 64)
			y, err2 := strconv.ParseInt(last, 16, 64)
			if err1 == nil && err2 == nil {
				from, to = x, y
			}
			continue
		}
		if w[0] != "VmFlags:" || to-from <= a.size {
			continue
		}
		for _, flag := range w[1:] {
			if flag == "dc" { // MADV_DONTFORK
				a.at, a.size = from, to-from
			}
		}
	}
	if a.size == 0 {
		return Arena{}, unable("process %d has no mapping that children do not get", pid)
	}
	return a, nil
}

// Size is that of the arena in bytes.
func (a Arena) Size() int64 { return a.size }

// open gives the memory of the process as a file.
func (a Arena) open() (*os.File, error) {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", a.pid), os.O_RDWR, 0)
	if err != nil {
		return nil, unable("%v", err)
	}
	return mem, nil
}

// Flip changes count bytes that are not zero. Errors: ErrUnable.
func (a Arena) Flip(count int, r *rand.Rand) (err error) {
	mem, err := a.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	var b [1]byte
	for range 10000 {
		where := a.at + r.Int64N(a.size)
		if _, err := mem.ReadAt(b[:], where); err != nil {
			return unable("%v", err)
		}
		if b[0] == 0 {
			continue
		}
		b[0] ^= byte(1 + r.IntN(255))
		if _, err := mem.WriteAt(b[:], where); err != nil {
			return unable("%v", err)
		}
		if count--; count == 0 {
			return nil
		}
	}
	return unable("too little is stored in %d bytes", a.size)
}

// Zero has all of it read as zeros. Errors: ErrUnable.
func (a Arena) Zero() error { return a.Put(make([]byte, a.size)) }

// Save is a copy of all of it. Errors: ErrUnable.
func (a Arena) Save() (_ []byte, err error) {
	mem, err := a.open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	saved := make([]byte, a.size)
	if _, err := mem.ReadAt(saved, a.at); err != nil {
		return nil, unable("%v", err)
	}
	return saved, nil
}

// Put writes a copy over all of it. Errors: ErrUnable.
func (a Arena) Put(saved []byte) (err error) {
	mem, err := a.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	if _, err := mem.WriteAt(saved, a.at); err != nil {
		return unable("%v", err)
	}
	return nil
}
