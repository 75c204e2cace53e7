package run

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dmps/chaos/badmem"
	"dmps/chaos/plan"
	"dmps/raid"
)

// victimVariable makes the test's own program the victim of what is done to
// processes: it keeps memory from its children, and answers each line it reads
// with the time and how many of its bytes are changed.
const victimVariable = "CHAOS_VICTIM"

const victimMemory = 4 << 20

func victim() {
	mem, err := unix.Mmap(-1, 0, victimMemory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err == nil {
		err = unix.Madvise(mem, unix.MADV_DONTFORK)
	}
	if err != nil {
		os.Exit(1)
	}
	for i := range mem {
		mem[i] = 0x55
	}
	start := time.Now()
	go func() { // asks for the time all the time
		for {
			if time.Now().Unix() == 0 {
				return
			}
			runtime.Gosched()
		}
	}()
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		bad := len(mem) - bytes.Count(mem, []byte{0x55})
		fmt.Println(time.Now().Unix(), time.Since(start).Milliseconds(), bad)
	}
	os.Exit(0)
}

type victimProcess struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startVictim(t *testing.T) *victimProcess {
	t.Helper()
	v := &victimProcess{t: t, cmd: exec.Command(os.Args[0])}
	v.cmd.Env = append(os.Environ(), victimVariable+"=1")
	v.cmd.Stderr = os.Stderr
	in, err1 := v.cmd.StdinPipe()
	out, err2 := v.cmd.StdoutPipe()
	if err := errors.Join(err1, err2, v.cmd.Start()); err != nil {
		t.Fatal(err)
	}
	v.in, v.out = in, bufio.NewScanner(out)
	t.Cleanup(func() {
		in.Close()
		if err := v.cmd.Wait(); err != nil {
			t.Errorf("the victim: %v", err)
		}
	})
	return v
}

func (v *victimProcess) ask() (wall time.Time, ran time.Duration, bad int) {
	v.t.Helper()
	var sec, ms int64
	if _, err := v.in.Write([]byte("?\n")); err != nil || !v.out.Scan() {
		v.t.Fatalf("no answer: %v, %v", err, v.out.Err())
	}
	if _, err := fmt.Sscan(v.out.Text(), &sec, &ms, &bad); err != nil {
		v.t.Fatal(err)
	}
	return time.Unix(sec, 0), time.Duration(ms) * time.Millisecond, bad
}

func skipIfSkipped(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, ErrSkipped) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestJumpClock(t *testing.T) {
	v := startVictim(t)
	v.ask()
	for _, by := range []time.Duration{time.Hour, -36 * time.Hour} {
		_, before, _ := v.ask()
		back, err := jumpClock(v.cmd.Process.Pid, by)
		skipIfSkipped(t, err)
		wall, ran, _ := v.ask()
		if d := time.Until(wall) - by; d.Abs() > 10*time.Second {
			t.Errorf("by %v: the clock is %v off", by, d)
		}
		if ran < before || ran > before+10*time.Second {
			t.Errorf("the monotonic clock went from %v to %v", before, ran)
		}
		if err := back(); err != nil {
			t.Fatal(err)
		}
		if wall, _, _ := v.ask(); time.Until(wall).Abs() > 10*time.Second {
			t.Errorf("back, and the clock shows %v", wall)
		}
	}
	// Often, while it asks for the time: nothing breaks.
	for i := range 100 {
		back, err := jumpClock(v.cmd.Process.Pid, time.Duration(i+1)*time.Second)
		skipIfSkipped(t, err)
		if err := back(); err != nil {
			t.Fatal(err)
		}
	}
	v.ask()
}

func TestDamage(t *testing.T) {
	v := startVictim(t)
	if _, _, bad := v.ask(); bad != 0 {
		t.Fatalf("%d bytes are changed", bad)
	}
	arena, err := badmem.Of(v.cmd.Process.Pid)
	if err != nil {
		t.Skip(err)
	}
	if arena.Size() < victimMemory {
		t.Fatalf("%d bytes of memory, want %d", arena.Size(), victimMemory)
	}
	hurt := func(f plan.Fault) func(context.Context) error {
		t.Helper()
		mend, err := damage(arena, f, raid.Geometry{K: 1, M: 1}, rand.New(rand.NewPCG(1, 1)))
		skipIfSkipped(t, err)
		return mend
	}
	hurt(plan.Fault{Kind: plan.Corrupt, Count: 5})
	_, _, bad := v.ask()
	if bad < 1 || bad > 5 {
		t.Errorf("%d of 5 bytes are changed", bad)
	}
	back := hurt(plan.Fault{Kind: plan.Rewind})
	hurt(plan.Fault{Kind: plan.Zero})
	if _, _, bad := v.ask(); bad != victimMemory {
		t.Errorf("%d of %d bytes are changed", bad, victimMemory)
	}
	if err := back(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, again := v.ask(); again != bad {
		t.Errorf("%d bytes are changed, as many as before were %d", again, bad)
	}
	if _, err := damage(arena, plan.Fault{Kind: plan.Swap, Count: 1}, raid.Geometry{K: 1, M: 1}, nil); !errors.Is(err, ErrSkipped) {
		t.Errorf("there are no slots to exchange, and it says %v", err)
	}
	if _, err := badmem.Of(1 << 30); !errors.Is(err, badmem.ErrUnable) {
		t.Errorf("of no process: %v", err)
	}
}

func TestDisk(t *testing.T) {
	d, err := mountDisk(t.TempDir() + "/d")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.unmount(); err != nil {
			t.Error(err)
		}
	}()
	skipIfSkipped(t, d.fill())
	file := d.dir + "/file"
	if err := os.WriteFile(file, make([]byte, 8192), 0o644); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("on a full disk: %v", err)
	}
	if err := d.empty(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, make([]byte, 8192), 0o644); err != nil {
		t.Error(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := d.unmount(); err != nil {
		t.Errorf("with a file open: %v", err)
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil || strings.Contains(string(mounts), d.dir) {
		t.Errorf("still mounted: %v", err)
	}
}
