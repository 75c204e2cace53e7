package memlock

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// childVariable makes the test's program the process that is locked: a locked
// test process would stay so for the tests that follow.
const childVariable = "DMPS_TEST_MEMLOCK"

func TestMain(m *testing.M) {
	if mode := os.Getenv(childVariable); mode != "" {
		if err := child(mode); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func child(mode string) error {
	if mode == "limited" {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}); err != nil {
			return err
		}
		// Without the capability the limit counts, root or not.
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		runtime.LockOSThread()
		if err := unix.Capset(&head, &none[0]); err != nil {
			return err
		}
		if err := Lock(); !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "1024 KiB") {
			return errors.New("Lock under a limit: " + errText(err))
		}
		return nil
	}
	before := status("VmRSS")
	if err := Lock(); err != nil {
		return err
	}
	big := make([]byte, 16<<20)
	if err := Populate(); err != nil {
		return err
	}
	if n := resident(big); n != len(big)/os.Getpagesize() {
		return errors.New("only " + strconv.Itoa(n) + " pages of a fresh allocation are in memory")
	}
	if locked := status("VmLck"); locked < 16<<10 {
		return errors.New("only " + strconv.Itoa(locked) + " KiB are locked")
	}
	// What is reserved and not used stays out.
	if grown := status("VmRSS") - before; grown > 64<<10 {
		return errors.New("locking took " + strconv.Itoa(grown) + " KiB for a heap of 16 MiB")
	}
	runtime.KeepAlive(big)
	return nil
}

func errText(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}

// status is a field of /proc/self/status in KiB.
func status(field string) int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				return -1
			}
			return n
		}
	}
	return -1
}

// resident counts the pages of b that are in memory.
func resident(b []byte) int {
	size := os.Getpagesize()
	start := uintptr(unsafe.Pointer(unsafe.SliceData(b))) &^ uintptr(size-1)
	vec := make([]byte, len(b)/size)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, start, uintptr(len(b)), uintptr(unsafe.Pointer(&vec[0])))
	if errno != 0 {
		return -1
	}
	n := 0
	for _, v := range vec {
		n += int(v & 1)
	}
	return n
}

func runChild(t *testing.T, mode string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"="+mode)
	out, err := cmd.CombinedOutput()
	if err != nil && len(out) == 0 {
		t.Fatal(err)
	}
	return string(out)
}

func TestLockAndPopulate(t *testing.T) {
	if err := MayLock(); err != nil {
		t.Skipf("this process may not lock its memory: %v", err)
	}
	if out := runChild(t, "lock"); out != "" {
		t.Error(out)
	}
}

func TestLimit(t *testing.T) {
	if out := runChild(t, "limited"); out != "" {
		t.Error(out)
	}
}

func TestParseMapping(t *testing.T) {
	m, err := parseMapping("7f00-8f00 r-xp 00000000 fe:00 9978073                            /opt/a b/dmps")
	if err != nil || m != (mapping{0x7f00, 0x8f00, true, "/opt/a b/dmps"}) {
		t.Errorf("%+v, %v", m, err)
	}
	m, err = parseMapping("7f00-8f00 ---p 00000000 00:00 0 ")
	if err != nil || m != (mapping{0x7f00, 0x8f00, false, ""}) {
		t.Errorf("%+v, %v", m, err)
	}
	for _, bad := range []string{"", "x", "7f00 r-xp 0 0 0", "8f00-7f00 r-xp 0 0 0", "zz-8f00 r-xp 0 0 0"} {
		if m, err := parseMapping(bad); err == nil {
			t.Errorf("%q parsed as %+v", bad, m)
		}
	}
}

func TestHot(t *testing.T) {
	exe, err := filepath.Abs("dmps")
	if err != nil {
		t.Fatal(err)
	}
	const heap = 5<<40 | 123
	for _, c := range []struct {
		m    mapping
		want bool
	}{
		{mapping{1, 2, true, exe}, true},
		{mapping{1, 2, false, exe}, false},
		{mapping{1, 2, true, "[vvar]"}, false},
		{mapping{5 << 40, 5<<40 + 1, true, ""}, true},
		{mapping{5 << 40, 5<<40 + 1, false, ""}, false},
		{mapping{5<<40 - 4<<20, 5 << 40, true, ""}, true}, // a heap may lie on both sides of any address
		{mapping{4 << 40, 4<<40 + 1, true, ""}, false},
		{mapping{6 << 40, 6<<40 + 1, true, ""}, false},
	} {
		if got := c.m.hot(exe, heap); got != c.want {
			t.Errorf("%+v: %v", c.m, got)
		}
	}
}

func FuzzParseMapping(f *testing.F) {
	f.Add("7f00-8f00 r-xp 00000000 fe:00 9978073 /usr/bin/dmps")
	f.Add("-")
	f.Fuzz(func(t *testing.T, line string) {
		if m, err := parseMapping(line); err == nil && m.end < m.start {
			t.Fatalf("%q: %+v", line, m)
		}
	})
}
