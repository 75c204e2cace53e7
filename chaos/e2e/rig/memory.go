package rig

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
)

const pageSize = 4096

// heapStart and heapEnd bound where Go keeps its heap on 64-bit machines.
const heapStart, heapEnd = 0xc000000000, 0xc100000000

// FindPages looks through the anonymous mappings of a process that have at
// least size bytes, its Go heap aside, and returns the addresses of the pages
// that match accepts: of a memory server, what it lends. It fails with
// os.ErrPermission where another process's memory cannot be read.
func FindPages(pid int, size uint64, match func(page []byte) bool) (addrs []uint64, err error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, fmt.Errorf("looking through the memory of process %d: %w", pid, err)
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, fmt.Errorf("looking through the memory of process %d: %w", pid, err)
	}
	defer mem.Close()
	lines := bufio.NewScanner(maps)
	buf := make([]byte, 1<<20)
	for lines.Scan() {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil {
			return nil, fmt.Errorf("mappings of process %d: %q: %w", pid, lines.Text(), err)
		}
		if !strings.HasPrefix(mode, "rw") || to-from < size || from >= heapStart && from < heapEnd {
			continue
		}
		for at := from; at < to; {
			n, err := mem.ReadAt(buf[:min(uint64(len(buf)), to-at)], int64(at))
			if err != nil {
				return nil, fmt.Errorf("reading the memory of process %d at %#x: %w", pid, at, err)
			}
			for o := 0; o+pageSize <= n; o += pageSize {
				if match(buf[o : o+pageSize]) {
					addrs = append(addrs, at+uint64(o))
				}
			}
			at += uint64(n)
		}
	}
	return addrs, lines.Err()
}

// FlipByte changes a byte of another process's memory.
func FlipByte(pid int, addr uint64) (err error) {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("changing the memory of process %d: %w", pid, err)
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	var b [1]byte
	if _, err := mem.ReadAt(b[:], int64(addr)); err != nil {
		return fmt.Errorf("reading the memory of process %d at %#x: %w", pid, addr, err)
	}
	b[0] ^= 0x40
	if _, err := mem.WriteAt(b[:], int64(addr)); err != nil {
		return fmt.Errorf("changing the memory of process %d at %#x: %w", pid, addr, err)
	}
	return nil
}
