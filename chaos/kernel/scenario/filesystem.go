package scenario

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes of what lies in the file system.
const (
	keptMiB = 16 // written once and compared at the end
	fioMiB  = 32 // written and verified by fio in each round
)

// filesystem puts ext4 on the device. fio writes and verifies there, past the
// page cache, while M servers are lost, in two rounds with others; a file that
// was there before is read back from the device; what is deleted leaves the
// volume when the file system is trimmed; fsck finds nothing.
func filesystem(kind string) func(context.Context, *Guest) error {
	return func(ctx context.Context, g *Guest) (err error) {
		c, st, err := newDevice(ctx, g, kind, rs21)
		if err != nil {
			return err
		}
		if _, err := output(ctx, "/bin/mkfs.ext4", "-q", st.Device); err != nil {
			return err
		}
		fs := &files{device: st.Device, at: "/mnt"}
		if err := fs.mount(); err != nil {
			return err
		}
		sum, err := fs.keep("kept", g.Seed)
		if err != nil {
			return err
		}
		for round := range 2 {
			var which []int
			for i := range c.scheme.m {
				which = append(which, round*c.scheme.m+i)
			}
			if err := fs.underFio(ctx, g, round, func() error {
				fmt.Printf("killing servers %v\n", which)
				return c.lose(which...)
			}); err != nil {
				return err
			}
			if err := c.replace(which...); err != nil {
				return err
			}
			if err := c.heal(ctx); err != nil {
				return err
			}
		}
		// Mounted again, so that it comes from the device.
		if err := errors.Join(fs.unmount(), fs.mount()); err != nil {
			return err
		}
		if err := fs.compare("kept", sum); err != nil {
			return err
		}
		if err := fs.trim(ctx, c); err != nil {
			return err
		}
		if err := fs.unmount(); err != nil {
			return err
		}
		if _, err := output(ctx, "/bin/e2fsck", "-f", "-n", st.Device); err != nil {
			return err
		}
		return c.detach(ctx)
	}
}

// files is a mounted file system.
type files struct{ device, at string }

func (f *files) mount() error {
	if err := unix.Mount(f.device, f.at, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mounting %s: %w", f.device, err)
	}
	return nil
}

func (f *files) unmount() error {
	if err := unix.Unmount(f.at, 0); err != nil {
		return fmt.Errorf("unmounting %s: %w", f.device, err)
	}
	return nil
}

// keep writes a file of random bytes, to the device.
func (f *files) keep(name string, seed uint64) (sum [sha256.Size]byte, err error) {
	b := make([]byte, keptMiB<<20)
	var key [32]byte
	key[0] = byte(seed)
	if _, err := rand.NewChaCha8(key).Read(b); err != nil {
		return sum, fmt.Errorf("random bytes: %w", err)
	}
	out, err := os.Create(filepath.Join(f.at, name))
	if err != nil {
		return sum, err
	}
	_, err = out.Write(b)
	return sha256.Sum256(b), errors.Join(err, out.Sync(), out.Close())
}

func (f *files) compare(name string, want [sha256.Size]byte) error {
	b, err := os.ReadFile(filepath.Join(f.at, name))
	if err != nil {
		return err
	}
	if sha256.Sum256(b) != want {
		return fmt.Errorf("file %s holds something else than what was written", name)
	}
	return nil
}

// underFio breaks something while fio writes, and waits until fio has verified
// all that it wrote.
func (f *files) underFio(ctx context.Context, g *Guest, round int, breakIt func() error) error {
	before, err := f.written()
	if err != nil {
		return err
	}
	fio, err := g.start("fio", "", "/bin/fio", "--name=work", "--directory="+f.at, "--size="+strconv.Itoa(fioMiB)+"m",
		"--rw=randwrite", "--bs=16k", "--ioengine=libaio", "--iodepth=8", "--direct=1", "--thread",
		"--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randseed="+strconv.FormatUint(g.Seed+uint64(round), 10))
	if err != nil {
		return err
	}
	if err := until(ctx, time.Minute, "fio's first quarter", func() error {
		now, err := f.written()
		if err == nil && now-before < fioMiB<<20/4 {
			err = fmt.Errorf("%d bytes are written", now-before)
		}
		return errors.Join(err, fio.alive())
	}); err != nil {
		return err
	}
	if err := breakIt(); err != nil {
		return err
	}
	if err := fio.alive(); err != nil {
		return fmt.Errorf("fio was done before anything was broken: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return fio.wait(ctx)
}

// written is how many bytes the device was given to write: the seventh field
// of its stat, in sectors (Documentation/block/stat.rst).
func (f *files) written() (int64, error) {
	b, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(f.device), "stat"))
	if err != nil {
		return 0, fmt.Errorf("how much was written: %w", err)
	}
	fields := strings.Fields(string(b))
	if len(fields) < 7 {
		return 0, fmt.Errorf("how much was written: %q", b)
	}
	n, err := strconv.ParseInt(fields[6], 10, 64)
	return n * 512, err
}

// fitrim is FITRIM of linux/fs.h, with a struct fstrim_range.
const fitrim = 0xc0185879

// trim deletes all files, has the file system say so, and sees the pages leave
// the volume.
func (f *files) trim(ctx context.Context, c *cluster) error {
	full, err := c.status(ctx)
	if err != nil {
		return err
	}
	names, err := filepath.Glob(filepath.Join(f.at, "[a-z]*"))
	if err != nil {
		return err
	}
	for _, n := range names {
		if filepath.Base(n) == "lost+found" {
			continue
		}
		if err := os.Remove(n); err != nil {
			return err
		}
	}
	dir, err := os.Open(f.at)
	if err != nil {
		return err
	}
	defer dir.Close() // read only
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("syncing %s: %w", f.at, err)
	}
	what := struct{ start, length, least uint64 }{length: 1 << 62}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), fitrim, uintptr(unsafe.Pointer(&what))); errno != 0 {
		return fmt.Errorf("trimming %s: %w", f.at, errno)
	}
	empty, err := c.status(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("live pages: %d with the files, %d without\n", full.Report.LivePages, empty.Report.LivePages)
	const files = (keptMiB + fioMiB) << 20 / page
	if full.Report.LivePages < files || empty.Report.LivePages > full.Report.LivePages-files*9/10 {
		return fmt.Errorf("%d pages are live after files of %d pages were deleted, %d before", empty.Report.LivePages, files, full.Report.LivePages)
	}
	return nil
}
