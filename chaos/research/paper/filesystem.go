package paper

import (
	"dmps/chaos/figures"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// FileRow is a file that is written and read through a file system.
type FileRow struct {
	Device  string `json:"device"`
	Servers int    `json:"servers"` // that hold the device, 0 for a disk
	Op      string `json:"op"`
	Block   int    `json:"block"` // bytes a call
	figures.Moved
}

// WriteFile makes a file of n bytes by calls of block bytes, and waits until it
// is on the device (fsync), which counts.
func WriteFile(path string, block int, n int64, c *Content) (m figures.Moved, err error) {
	fail := func(err error) (figures.Moved, error) {
		return m, fmt.Errorf("writing %s in blocks of %d: %w", path, block, err)
	}
	if block <= 0 || block%pageSize != 0 {
		return fail(errors.New("blocks must be pages"))
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fail(err)
	}
	buf := make([]byte, block)
	c.Fill(buf, 0)
	n -= n % int64(block)
	start := time.Now()
	for off := int64(0); off < n; off += int64(block) {
		c.Restamp(buf, off)
		if _, err := f.Write(buf); err != nil {
			return fail(errors.Join(err, f.Close()))
		}
	}
	err = f.Sync()
	m = moved(n, start)
	if err = errors.Join(err, f.Close()); err != nil {
		return fail(err)
	}
	return m, nil
}

// ReadFile reads and checks what WriteFile has written, from the device: the
// file's pages are dropped from the page cache first, which does not count.
func ReadFile(path string, block int, c *Content) (m figures.Moved, err error) {
	fail := func(err error) (figures.Moved, error) {
		return m, fmt.Errorf("reading %s in blocks of %d: %w", path, block, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return fail(err)
	}
	defer f.Close() // nothing was written
	st, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fail(fmt.Errorf("dropping the page cache: %w", err))
	}
	buf := make([]byte, block)
	start := time.Now()
	var off int64
	for off+int64(block) <= st.Size() {
		if _, err := f.ReadAt(buf, off); err != nil {
			return fail(err)
		}
		if err := c.Check(buf, off); err != nil {
			return fail(err)
		}
		off += int64(block)
	}
	return moved(off, start), nil
}
