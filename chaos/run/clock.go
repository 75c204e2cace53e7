package run

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"dmps/chaos/cluster"
)

// The clock of a single process cannot be set: Linux has one wall clock. But a
// program asks for the time through a page of code that the kernel maps into it
// (vdso(7)), and that page can be written through /proc/PID/mem, as debuggers do:
// it becomes the process's own. The function clock_gettime is made to begin with a
// jump to code that asks the kernel and adds an offset to CLOCK_REALTIME. So the
// whole process sees the jump, libraries included, and nothing in dmps knows of
// it. The monotonic clock is left alone, as it is when an operator or NTP sets the
// time; a process that is frozen sees that one jump.

// clockCode takes the place of clock_gettime, for amd64; arguments are in edi
// (clock) and rsi (timespec). It lies in the unused end of the page, so that who is
// in the middle of the old function, or of this one, comes to its end in peace.
var clockCode = []byte{
	0xb8, 228, 0, 0, 0, // mov  eax, SYS_clock_gettime
	0x0f, 0x05, // syscall
	0x85, 0xff, // test edi, edi: CLOCK_REALTIME is 0
	0x75, 10, // jnz  ret
	0x48, 0x8b, 0x0d, 14, 0, 0, 0, // mov  rcx, [rip+14]: the offset
	0x48, 0x01, 0x0e, // add  [rsi], rcx
	0xc3, // ret
}

const (
	clockOffset = 32              // where the offset in seconds follows the code
	clockSize   = clockOffset + 8 // of both
	jumpSize    = 5               // of the jump to it
)

// jumpClock sets the wall clock of a process by whole seconds. back undoes it; it
// does nothing when the process has ended.
func jumpClock(pid int, by time.Duration) (back func() error, err error) {
	if runtime.GOARCH != "amd64" {
		return nil, skipped("clocks are set on amd64 only")
	}
	v, err := findClock(pid)
	if err != nil {
		return nil, skipped("the clock of process %d: %v", pid, err)
	}
	code := make([]byte, clockSize)
	copy(code, clockCode)
	binary.LittleEndian.PutUint64(code[clockOffset:], uint64(int64(by/time.Second)))
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return nil, skipped("%v", err)
	}
	_, err = mem.WriteAt(code, v.room) // nobody is there yet, or it is the same code
	if err := errors.Join(err, mem.Close()); err != nil {
		return nil, skipped("writing to process %d: %v", pid, err)
	}
	jump := make([]byte, jumpSize)
	jump[0] = 0xe9
	binary.LittleEndian.PutUint32(jump[1:], uint32(int32(v.room-v.entry-jumpSize)))
	if err := rewrite(pid, v.entry, jump); err != nil {
		return nil, err
	}
	return func() error {
		if cluster.Ended(pid) {
			return nil
		}
		return rewrite(pid, v.entry, v.begins)
	}, nil
}

// clockPlace is where a process has clock_gettime.
type clockPlace struct {
	entry  int64  // address of the function
	begins []byte // its first jumpSize bytes
	room   int64  // address of clockSize bytes that nobody uses
}

func findClock(pid int) (clockPlace, error) {
	from, to, err := vdsoOf(pid)
	if err != nil {
		return clockPlace{}, err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return clockPlace{}, err
	}
	defer mem.Close()
	image := make([]byte, to-from)
	if _, err := mem.ReadAt(image, from); err != nil {
		return clockPlace{}, err
	}
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return clockPlace{}, err
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return clockPlace{}, err
	}
	room := len(image) - clockSize
	if tail := image[room:]; !bytes.Equal(tail, make([]byte, clockSize)) && !bytes.HasPrefix(tail, clockCode) {
		return clockPlace{}, errors.New("its vdso is full")
	}
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" && s.Size > jumpSize && s.Value+s.Size <= uint64(len(image)) {
			return clockPlace{
				entry: from + int64(s.Value), begins: bytes.Clone(image[s.Value : s.Value+jumpSize]), room: from + int64(room),
			}, nil
		}
	}
	return clockPlace{}, errors.New("its vdso has no clock_gettime")
}

// vdsoOf is where the kernel's code page of a process begins and ends.
func vdsoOf(pid int) (from, to int64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			continue
		}
		a, b, _ := strings.Cut(strings.Fields(line)[0], "-")
		from, err1 := strconv.ParseInt(a, 16, 64)
		to, err2 := strconv.ParseInt(b, 16, 64)
		return from, to, errors.Join(err1, err2)
	}
	return 0, 0, errors.New("it has no vdso")
}

// rewrite replaces some code of a process, while it is stopped and no thread is in
// the middle of it.
func rewrite(pid int, at int64, code []byte) (err error) {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return skipped("%v", err)
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	for range 100 {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return skipped("stopping process %d: %v", pid, err)
		}
		free, stopped, err := false, false, error(nil)
		for deadline := time.Now().Add(time.Second); err == nil && !stopped && time.Now().Before(deadline); {
			free, stopped, err = outOf(pid, at+1, at+int64(len(code)))
		}
		if err == nil && free {
			_, err = mem.WriteAt(code, at)
		}
		if kerr := syscall.Kill(pid, syscall.SIGCONT); kerr != nil && !errors.Is(kerr, syscall.ESRCH) {
			return fmt.Errorf("process %d stays stopped: %w", pid, kerr)
		}
		if err != nil {
			return skipped("process %d: %v", pid, err)
		}
		if free {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return skipped("process %d asks for the time all the time", pid)
}

// outOf reports whether all threads of a process have stopped, outside of
// [from, to).
func outOf(pid int, from, to int64) (free, stopped bool, err error) {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	threads, err := os.ReadDir(dir)
	if err != nil {
		return false, false, err
	}
	free = true
	for _, t := range threads {
		b, err := os.ReadFile(dir + "/" + t.Name() + "/syscall")
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // the thread has just ended
		}
		if err != nil {
			return false, false, err
		}
		w := strings.Fields(string(b))
		if w[0] == "running" {
			return false, false, nil
		}
		pc, err := strconv.ParseUint(strings.TrimPrefix(w[len(w)-1], "0x"), 16, 64)
		if err != nil {
			return false, false, fmt.Errorf("where thread %s is: %w", t.Name(), err)
		}
		if pc >= uint64(from) && pc < uint64(to) {
			free = false
		}
	}
	return free, true, nil
}
