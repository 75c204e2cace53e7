package ublk

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"dmps/client"
	"dmps/client/devicetest"
	"dmps/internal/blockdev"
)

// The tests of this file need the driver, and they do what must not be done to
// a machine that somebody works on. They run in a guest of chaos/kernel:
//
//	CGO_ENABLED=0 go test -c -o ublk.test dmps/client/ublk
//	go run dmps/chaos/kernel/cmd/guestrun ./ublk.test -test.run Guest -test.v

func inGuest(t testing.TB) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil || !strings.Contains(string(line), "dmps.guest=1") {
		t.Skip("needs a guest of chaos/kernel")
	}
	if _, err := os.Stat(controlPath); err != nil {
		t.Skip(err)
	}
}

func real(t testing.TB, cfg Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// aligned is memory that O_DIRECT takes.
func aligned(t testing.TB, n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(b); err != nil {
			t.Error(err)
		}
	})
	return b
}

func ioctlRange(fd int, req uint, off, n int64) error {
	r := [2]uint64{uint64(off), uint64(n)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(&r))); errno != 0 {
		return errno
	}
	return nil
}

const (
	blkDiscard = 0x1277 // BLKDISCARD
	blkZeroOut = 0x127f // BLKZEROOUT
)

func queueLimit(t testing.TB, s *Server, name string) string {
	b, err := os.ReadFile(fmt.Sprintf("/sys/block/ublkb%d/queue/%s", s.ID(), name))
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(string(b))
}

// TestGuestIO does verified direct I/O of all kinds from many goroutines, on
// each of its sizes and numbers of queues.
func TestGuestIO(t *testing.T) {
	inGuest(t)
	Procs(2)
	for _, c := range []struct{ queues, depth, maxIO, arena int }{{1, 64, 128 << 10, 2048}, {2, 64, 128 << 10, 2048}, {2, 4, 1 << 20, 300}, {2, 32, 64 << 10, 34}} {
		const users, region = 8, 512
		d := devicetest.New(t, devicetest.NewDisk(users*region*pageSize), c.arena, false)
		s := real(t, Config{Device: d, Identity: "guest/1", ID: AnyID, Queues: c.queues, Depth: c.depth, MaxIO: c.maxIO})
		for name, want := range map[string]string{
			"logical_block_size": "4096", "physical_block_size": "4096", "max_hw_sectors_kb": strconv.Itoa(c.maxIO >> 10),
			"discard_granularity": "4096", "discard_max_hw_bytes": strconv.Itoa(maxDiscard), "write_cache": "write back", "fua": "1",
		} {
			if got := queueLimit(t, s, name); got != want {
				t.Errorf("%s is %q, not %q", name, got, want)
			}
		}
		var wg sync.WaitGroup
		for u := range users {
			wg.Go(func() {
				fd, err := unix.Open(s.Path(), unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
				if err != nil {
					t.Error(err)
					return
				}
				defer unix.Close(fd)
				rnd := rand.New(rand.NewPCG(uint64(u), 5))
				model, buf := make([]byte, region*pageSize), aligned(t, region*pageSize)
				for i := range 150 {
					page := rnd.IntN(region)
					n := 1 + rnd.IntN(min(128, region-page))
					off := int64(u*region+page) * pageSize
					part, b := model[page*pageSize:(page+n)*pageSize], buf[:n*pageSize]
					switch what := rnd.IntN(8); what {
					case 0, 1, 2:
						copy(b, fill(len(b), uint64(u<<10+i)))
						copy(part, b)
						if got, err := unix.Pwrite(fd, b, off); got != len(b) || err != nil {
							t.Errorf("write: %d, %v", got, err)
						}
					case 3, 4, 5:
						clear(b)
						if got, err := unix.Pread(fd, b, off); got != len(b) || err != nil || !bytes.Equal(b, part) {
							t.Errorf("read of %d pages at %d: %d, %v, equal %v", n, page, got, err, bytes.Equal(b, part))
						}
					case 6:
						clear(part)
						req := []uint{blkDiscard, blkZeroOut}[i%2]
						if err := ioctlRange(fd, req, off, int64(len(b))); err != nil {
							t.Errorf("ioctl %#x: %v", req, err)
						}
					case 7:
						if err := unix.Fsync(fd); err != nil {
							t.Errorf("fsync: %v", err)
						}
					}
				}
			})
		}
		wg.Wait()
		st := s.Stats()
		t.Logf("%+v: %+v", c, st)
		if st.Errors != 0 || st.Trims == 0 || st.Flushes == 0 || c.arena < 100 && st.Waits == 0 {
			t.Errorf("%+v", st)
		}
		for i, q := range s.queues {
			if q.count.enters.Load() < 10 {
				t.Errorf("queue %d had nothing to do", i)
			}
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(s.Path()); err == nil {
			t.Errorf("%s is still there", s.Path())
		}
		d.Close(t)
	}
}

// TestGuestErrors has failing requests fail, and the next ones work.
func TestGuestErrors(t *testing.T) {
	inGuest(t)
	d := devicetest.New(t, devicetest.NewDisk(512*pageSize), 256, false)
	s := real(t, Config{Device: d, Identity: "guest/e", ID: AnyID})
	d.SetFault(func(op *client.Op) error {
		if op.Off == 8*pageSize {
			return client.ErrLost
		}
		return nil
	})
	fd, err := unix.Open(s.Path(), unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := aligned(t, pageSize)
	for page := range 20 {
		var want error
		if page == 8 {
			want = unix.EIO
		}
		if _, err := unix.Pwrite(fd, b, int64(page*pageSize)); !errors.Is(err, want) {
			t.Errorf("write of page %d: %v", page, err)
		}
		if _, err := unix.Pread(fd, b, int64(page*pageSize)); !errors.Is(err, want) {
			t.Errorf("read of page %d: %v", page, err)
		}
	}
	if err := unix.Close(fd); err != nil {
		t.Error(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestGuestInUse does not stop what is claimed or open, and goes on with it in
// the same process.
func TestGuestInUse(t *testing.T) {
	inGuest(t)
	kept := devicetest.NewDisk(512 * pageSize)
	d := devicetest.New(t, kept, 256, false)
	s := real(t, Config{Device: d, Identity: "guest/u", ID: 3})
	fd, err := unix.Open(s.Path(), unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context()); !errors.Is(err, blockdev.ErrInUse) {
		t.Fatalf("a claimed device: %v", err)
	}
	if err := unix.Close(fd); err != nil {
		t.Error(err)
	}
	// A process that just has it open.
	in, err := os.Open(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stdin = []string{childEnv + "=sleep"}, in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Stop(t.Context()); !errors.Is(err, blockdev.ErrInUse) {
		t.Fatalf("an open device: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it was killed
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// childEnv says what this program does as a child of a test.
const childEnv = "UBLK_TEST_CHILD"

// child is what TestMain does in a child.
func child(what string) error {
	if what == "sleep" {
		time.Sleep(time.Minute)
		return nil
	}
	if what == silentStart {
		return silentChild()
	}
	if identity, ok := strings.CutPrefix(what, orphanStart); ok {
		return orphanChild(identity)
	}
	// A client: the volume is a file, which outlives it as servers do.
	path, queues, ok := strings.Cut(what, ",")
	n, err := strconv.Atoi(queues)
	if !ok || err != nil {
		return fmt.Errorf("child of a test: %q", what)
	}
	Procs(n)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	m := devicetest.Start(devicetest.DiskOf(mem, true), 1024, false)
	s, err := Start(context.Background(), Config{Device: m, Identity: "guest/k", ID: AnyID, Queues: n, Depth: 16})
	if err != nil {
		return err
	}
	fmt.Printf("ready %s %v\n", s.Path(), s.Recovered())
	<-s.Failed()
	return s.Err()
}

// startClient starts a child that serves the file and waits until it does.
func startClient(t *testing.T, file string, queues int) (cmd *exec.Cmd, path string, recovered bool) {
	cmd = exec.Command(os.Args[0])
	cmd.Env = []string{fmt.Sprintf("%s=%s,%d", childEnv, file, queues)}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the client: %v", err)
	}
	if n, err := fmt.Sscanf(line, "ready %s %t", &path, &recovered); n != 2 {
		t.Fatalf("the client says %q: %v", line, err)
	}
	return cmd, path, recovered
}

// TestGuestKill kills the client again and again while the device is written
// and read. No request fails, no byte is wrong.
func TestGuestKill(t *testing.T) {
	inGuest(t)
	const pages, users = 4096, 8
	file := t.TempDir() + "/volume"
	if err := os.WriteFile(file, make([]byte, pages*pageSize), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd, path, recovered := startClient(t, file, 2)
	if recovered {
		t.Error("a new device was recovered")
	}
	var stop atomic.Bool
	var done atomic.Int64
	var wg sync.WaitGroup
	for u := range users {
		wg.Go(func() {
			fd, err := unix.Open(path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer unix.Close(fd)
			const region = pages / users
			rnd := rand.New(rand.NewPCG(uint64(u), 5))
			model, buf := make([]byte, region*pageSize), aligned(t, region*pageSize)
			for i := 0; !stop.Load(); i++ {
				page := rnd.IntN(region)
				n := 1 + rnd.IntN(min(48, region-page))
				off := int64(u*region+page) * pageSize
				part, b := model[page*pageSize:(page+n)*pageSize], buf[:n*pageSize]
				if i%2 == 0 {
					copy(b, fill(len(b), rnd.Uint64()))
					copy(part, b)
					if got, err := unix.Pwrite(fd, b, off); got != len(b) || err != nil {
						t.Errorf("write: %d, %v", got, err)
						return
					}
				} else if got, err := unix.Pread(fd, b, off); got != len(b) || err != nil || !bytes.Equal(b, part) {
					t.Errorf("read: %d, %v, equal %v", got, err, bytes.Equal(b, part))
					return
				}
				done.Add(1)
			}
		})
	}
	const rounds = 8
	for i := range rounds {
		before := done.Load()
		for done.Load() < before+50 && !t.Failed() {
			time.Sleep(5 * time.Millisecond)
		}
		began := time.Now()
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		dead := time.Since(began)
		at := done.Load()
		var again string
		if cmd, again, recovered = startClient(t, file, 2); again != path || !recovered {
			t.Fatalf("round %d: %s, recovered %v", i, again, recovered)
		}
		took := time.Since(began)
		for done.Load() < at+users && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
		t.Logf("round %d: dead after %v, back after %v, requests of all users answered after %v", i, dead, took, time.Since(began))
	}
	stop.Store(true)
	wg.Wait()
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	t.Logf("%d requests", done.Load())
}

// TestGuestRate measures: it fails only when nothing works.
func TestGuestRate(t *testing.T) {
	inGuest(t)
	if testing.Short() {
		t.Skip("measures")
	}
	for _, c := range []struct {
		queues, maxIO int
		procs         bool
	}{{1, 128 << 10, true}, {2, 128 << 10, true}, {2, 1 << 20, true}, {2, 128 << 10, false}} {
		old := runtime.GOMAXPROCS(0)
		if c.procs {
			Procs(c.queues)
		}
		d := devicetest.New(t, devicetest.NewDisk(16384*pageSize), 4096, true)
		d.Map(0, int(d.Size()/pageSize))
		s := real(t, Config{Device: d, Identity: "guest/r", ID: AnyID, Queues: c.queues, MaxIO: c.maxIO})
		for _, w := range []struct {
			what        string
			users, size int
			write       bool
		}{{"read 4k", 1, 4096, false}, {"read 4k", 8, 4096, false}, {"write 4k", 8, 4096, true}, {"write 1m", 4, 1 << 20, true}, {"read 1m", 4, 1 << 20, false}} {
			before := s.Stats()
			n, took := hammer(t, s.Path(), w.users, w.size, w.write, d.Size())
			after := s.Stats()
			reqs := after.Reads + after.Writes - before.Reads - before.Writes
			t.Logf("queues %d, %4d KiB, procs %v: %s x%d: %7.1f MB/s %7.0f/s, %.0f us each, %.2f enters and %.2f wakes a request",
				c.queues, c.maxIO>>10, c.procs, w.what, w.users, float64(n)*float64(w.size)/took.Seconds()/1e6, float64(n)/took.Seconds(),
				took.Seconds()*1e6*float64(w.users)/float64(n), float64(after.Enters-before.Enters)/float64(reqs), float64(after.Wakes-before.Wakes)/float64(reqs))
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		runtime.GOMAXPROCS(old)
	}
}

func hammer(t *testing.T, path string, users, size int, write bool, span int64) (int64, time.Duration) {
	var n atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for u := range users {
		buf := aligned(t, size)
		copy(buf, fill(size, 3))
		wg.Go(func() {
			fd, err := unix.Open(path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer unix.Close(fd)
			rnd := rand.New(rand.NewPCG(uint64(u), 5))
			for time.Since(began) < 1500*time.Millisecond {
				off := rnd.Int64N(span/int64(size)) * int64(size)
				if write {
					_, err = unix.Pwrite(fd, buf, off)
				} else {
					_, err = unix.Pread(fd, buf, off)
				}
				if err != nil {
					t.Error(err)
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return n.Load(), time.Since(began)
}
