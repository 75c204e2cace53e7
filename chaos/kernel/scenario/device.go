package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// device uses the volume as a block device, past the page cache, kills the
// client in the middle, and starts it again.
func device(kind string) func(context.Context, *Guest) error {
	return func(ctx context.Context, g *Guest) error {
		c, st, err := newDevice(ctx, g, kind, rs21)
		if err != nil {
			return err
		}
		d, err := openDirect(st.Device, g.Seed)
		if err != nil {
			return err
		}
		defer d.f.Close() // every write was checked
		if d.size != int64(c.scheme.volumeMiB)<<20 {
			return fmt.Errorf("%s has %d bytes", st.Device, d.size)
		}
		if err := d.work(400, nil); err != nil {
			return err
		}
		// In use: the kernel does not give the device to another client, and
		// this one's death is a pause.
		killed := make(chan error, 1)
		go func() {
			time.Sleep(300 * time.Millisecond)
			if err := c.attach.signal(syscall.SIGKILL); err != nil {
				killed <- err
				return
			}
			killed <- c.startAttach(ctx, kind)
		}()
		if err := d.work(1<<30, killed); err != nil {
			return err
		}
		if err := d.verifyAll(); err != nil {
			return err
		}
		if err := d.discard(ctx, c); err != nil {
			return err
		}
		if err := d.f.Close(); err != nil {
			return err
		}
		return c.detach(ctx)
	}
}

// direct is a device that is read and written past the page cache, and what was
// written there.
type direct struct {
	f    *os.File
	size int64
	rng  *rand.Rand
	want map[int64]uint64 // block -> seed of its content
	buf  []byte
}

const directBlock = 32 << 10

func openDirect(path string, seed uint64) (*direct, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the device: %w", err)
	}
	size, err := blockSize64(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	buf, err := unix.Mmap(-1, 0, directBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS) // aligned
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &direct{f: f, size: size, rng: rand.New(rand.NewPCG(seed, 2)), want: make(map[int64]uint64), buf: buf}, nil
}

// blockSize64 is the size of a block device, BLKGETSIZE64 of linux/fs.h.
func blockSize64(f *os.File) (int64, error) {
	var size uint64
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&size))); errno != 0 {
		return 0, fmt.Errorf("size of %s: %w", f.Name(), errno)
	}
	return int64(size), nil
}

// discardFile discards all of a device, BLKDISCARD of linux/fs.h.
func discardFile(f *os.File, size int64) error {
	what := [2]uint64{0, uint64(size)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&what))); errno != 0 {
		return fmt.Errorf("discarding %s: %w", f.Name(), errno)
	}
	return nil
}

// discardAll discards a device that nobody uses.
func discardAll(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("discarding %s: %w", path, err)
	}
	size, err := blockSize64(f)
	if err == nil {
		err = discardFile(f, size)
	}
	return errors.Join(err, f.Close())
}

func fill(b []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 3))
	for at := 0; at < len(b); at += 256 {
		x := r.Uint64() | 1
		for i := range 8 {
			b[at+i] = byte(x >> (8 * i))
		}
	}
}

// work writes and reads n times, or until over gives a result.
func (d *direct) work(n int, over <-chan error) error {
	for range n {
		select {
		case err := <-over:
			return err
		default:
		}
		b := d.rng.Int64N(d.size / directBlock)
		if d.rng.IntN(2) == 0 {
			seed := d.rng.Uint64() | 1
			clear(d.buf)
			fill(d.buf, seed)
			if _, err := d.f.WriteAt(d.buf, b*directBlock); err != nil {
				return err
			}
			d.want[b] = seed
		} else if err := d.verify(b); err != nil {
			return err
		}
	}
	return d.f.Sync()
}

func (d *direct) verify(b int64) error {
	if _, err := d.f.ReadAt(d.buf, b*directBlock); err != nil {
		return err
	}
	want := make([]byte, directBlock)
	if seed := d.want[b]; seed != 0 {
		fill(want, seed)
	}
	if !bytes.Equal(d.buf, want) {
		return fmt.Errorf("block %d of the device holds something else than what was written", b)
	}
	return nil
}

func (d *direct) verifyAll() error {
	for b := range d.size / directBlock {
		if err := d.verify(b); err != nil {
			return err
		}
	}
	return nil
}

// discard gives everything back, and sees the volume become empty.
func (d *direct) discard(ctx context.Context, c *cluster) error {
	before, err := c.status(ctx)
	if err != nil {
		return err
	}
	if before.Report.LivePages == 0 {
		return errors.New("the client reports no live page of a device that was written")
	}
	if err := discardFile(d.f, d.size); err != nil {
		return err
	}
	clear(d.want)
	if err := d.verifyAll(); err != nil {
		return err
	}
	st, err := c.status(ctx)
	if err == nil && st.Report.LivePages != 0 {
		err = fmt.Errorf("%d of %d pages are live after all was discarded", st.Report.LivePages, before.Report.LivePages)
	}
	return err
}

// discard has the kernel swap, and sees pages that it freed leave the volume.
func discard(kind string) func(context.Context, *Guest) error {
	return func(ctx context.Context, g *Guest) error {
		w, err := swapTo(ctx, g, kind, mirror2)
		if err != nil {
			return err
		}
		full, err := w.status(ctx)
		if err != nil {
			return err
		}
		if err := w.hog.finish(ctx); err != nil {
			return err
		}
		// The kernel discards clusters of 512 pages when all of them are free. Some
		// stay: each processor keeps up to 64 places that were freed to itself,
		// wherever they lie (mm/swap_slots.c). Without discards none would leave.
		const least = 2 * 512
		var left uint64
		if err := until(ctx, 30*time.Second, "discarding what a hog left", func() error {
			st, err := w.status(ctx)
			if err != nil {
				return err
			}
			if left = st.Report.LivePages; left+least > full.Report.LivePages {
				return fmt.Errorf("%d live pages, %d before", left, full.Report.LivePages)
			}
			return nil
		}); err != nil {
			return err
		}
		fmt.Printf("live pages: %d with a hog, %d after it\n", full.Report.LivePages, left)
		if w.hog, err = g.startHog(hogMiB, hogLimitMiB); err != nil {
			return err
		}
		if err := w.turn(ctx, 2); err != nil {
			return err
		}
		return w.finish(ctx)
	}
}
