package run

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
)

// damage changes count bytes that are not zero, of the size bytes at an address of
// a process. It writes by the kernel, past the process. Errors: ErrSkipped when
// that is not permitted or too little is stored there.
func damage(pid int, at, size int64, count int, r *rand.Rand) (err error) {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return skipped("%v", err)
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	var b [1]byte
	for range 10000 {
		where := at + r.Int64N(size)
		if _, err := mem.ReadAt(b[:], where); err != nil {
			return skipped("%v", err)
		}
		if b[0] == 0 {
			continue
		}
		b[0] ^= byte(1 + r.IntN(255))
		if _, err := mem.WriteAt(b[:], where); err != nil {
			return skipped("%v", err)
		}
		if count--; count == 0 {
			return nil
		}
	}
	return skipped("too little is stored in %d bytes", size)
}

// arenaOf finds the memory that a server process lends: the largest mapping
// that it keeps from children.
func arenaOf(pid int) (at, size int64, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, 0, skipped("%v", err)
	}
	defer f.Close()
	var from, to int64
	for s := bufio.NewScanner(f); s.Scan(); {
		w := strings.Fields(s.Text())
		if len(w) == 0 {
			continue
		}
		if a, b, ok := strings.Cut(w[0], "-"); ok && len(w) >= 5 {
			x, err1 := strconv.ParseInt(a, 16, 64)
			y, err2 := strconv.ParseInt(b, 16, 64)
			if err1 == nil && err2 == nil {
				from, to = x, y
			}
			continue
		}
		if w[0] != "VmFlags:" || to-from <= size {
			continue
		}
		for _, flag := range w[1:] {
			if flag == "dc" { // MADV_DONTFORK
				at, size = from, to-from
			}
		}
	}
	if size == 0 {
		return 0, 0, skipped("process %d has no mapping that children do not get", pid)
	}
	return at, size, nil
}
