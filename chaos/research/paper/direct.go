package paper

import (
	"dmps/chaos/figures"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// DirectRow is direct I/O in order on a device, one request at a time.
type DirectRow struct {
	Device string `json:"device"`
	Op     string `json:"op"`
	Block  int    `json:"block"` // bytes a request
	figures.Moved
}

// DirectIO reads or writes the first bytes of a file or block device past the
// page cache, in order, in requests of block bytes, which must be a multiple of
// a page. When region bytes are through it begins again at 0. Reads must find
// what writes with the same content left: write the region first.
//
// What file systems cannot do direct I/O (tmpfs) is an error.
func DirectIO(path, op string, block int, region int64, a Amount, c *Content) (figures.Moved, error) {
	m, err := directIO(path, op, block, region, a, c)
	if err != nil {
		return m, fmt.Errorf("direct %s of %s in blocks of %d: %w", op, path, block, err)
	}
	return m, nil
}

func directIO(path, op string, block int, region int64, a Amount, c *Content) (m figures.Moved, err error) {
	if block <= 0 || block%pageSize != 0 || region < int64(block) {
		return m, fmt.Errorf("blocks must be pages, and fit %d bytes", region)
	}
	flag := os.O_RDONLY
	if op == figures.Write {
		flag = os.O_WRONLY
	}
	f, err := os.OpenFile(path, flag|unix.O_DIRECT, 0)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf, free, err := Pages(int64(block))
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, free()) }()
	c.Fill(buf, 0)

	region -= region % int64(block)
	start := time.Now()
	var n int64
	for n == 0 || !a.enough(n, start) {
		off := n % region
		if op == figures.Write {
			c.Restamp(buf, off)
			_, err = f.WriteAt(buf, off)
		} else if _, err = f.ReadAt(buf, off); err == nil {
			err = c.Check(buf, off)
		}
		if err != nil {
			return moved(n, start), err
		}
		n += int64(block)
	}
	if op == figures.Write {
		if err := f.Sync(); err != nil {
			return moved(n, start), err
		}
	}
	return moved(n, start), nil
}

// Pages gives n bytes of memory of its own mapping, aligned to a page, and the
// function that returns it.
func Pages(n int64) ([]byte, func() error, error) {
	b, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, fmt.Errorf("mapping %d bytes: %w", n, err)
	}
	return b, func() error { return unix.Munmap(b) }, nil
}
