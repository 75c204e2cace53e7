//go:build fabric && cgo

package fabric

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What a client can take away from under the server would end it by SIGBUS: only
// memory that cannot be made shorter is taken.
func TestBellStays(t *testing.T) {
	b, err := newBell()
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	s, err := openBell(b.name())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := b.f.Truncate(0); err == nil {
		t.Error("the client has made it shorter")
	}
	if _, err := unix.FcntlInt(b.f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); err == nil {
		t.Error("the client has sealed it further")
	}
	b.mem[0] = 7
	if s.mem[0] != 7 { // it is there, and the same
		t.Error("the server has other memory")
	}
}

// memory makes a descriptor of a memfd, or of a file.
func memory(t *testing.T, name string, size int64, seals int) int {
	t.Helper()
	fd, err := unix.MemfdCreate(name, unix.MFD_ALLOW_SEALING|unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Ftruncate(fd, size); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestBellsRefused(t *testing.T) {
	page := int64(os.Getpagesize())
	good, err := newBell()
	if err != nil {
		t.Fatal(err)
	}
	defer good.close()
	file, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	zeros := fmt.Sprintf("%032x", 0)
	of := func(fd int) string { return fmt.Sprintf("%d/%d/%s", os.Getpid(), fd, zeros) }
	for what, name := range map[string]string{
		"could be made shorter":  of(memory(t, bellMemory, page, 0)),
		"too short":              of(memory(t, bellMemory, page-1, bellSeals)),
		"another memory":         of(memory(t, "other", page, bellSeals)),
		"a file":                 of(int(file.Fd())),
		"a pipe":                 of(int(r.Fd())),
		"not there":              of(1 << 20),
		"of one that cannot say": fmt.Sprintf("%d/%d/%s", os.Getpid(), good.f.Fd(), zeros),
		"a path":                 "../../etc/passwd",
		"numbers":                "-1/0x3/" + zeros,
		"no token":               fmt.Sprintf("%d/%d/", os.Getpid(), good.f.Fd()),
		"nothing":                "",
	} {
		if b, err := openBell(name); err == nil {
			t.Errorf("%s: taken", what)
			b.close()
		}
	}
	if b, err := openBell(of(memory(t, bellMemory, page, bellSeals))); err != nil {
		t.Errorf("a true one: %v", err)
	} else {
		b.close()
	}
}

// Another user's memory is not mapped, whatever rights it has.
func TestOthersMemoryIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a file of another user needs root")
	}
	name := fmt.Sprintf("dmps-test-%d", os.Getpid())
	f, err := os.OpenFile(regionDir+name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	addr := []byte(regionPrefix + name + "\x00")
	if err := checkRegion(addr); err != nil {
		t.Errorf("our own: %v", err)
	}
	if err := f.Chown(65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := checkRegion(addr); !errors.Is(err, errMessage) {
		t.Errorf("another user's: %v", err)
	}
	fd := memory(t, bellMemory, int64(os.Getpagesize()), bellSeals)
	if err := unix.Fchown(fd, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if b, err := openBell(fmt.Sprintf("%d/%d/%032x", os.Getpid(), fd, 0)); !errors.Is(err, errMessage) {
		t.Errorf("another user's bell: %v", err)
		if err == nil {
			b.close()
		}
	}
	for _, addr := range []string{"", "fi_shm://", "fi_shm://..", "fi_shm://../etc/passwd", "fi_shm://not-there-" + name, "fi_sockaddr_in://1"} {
		if checkRegion([]byte(addr)) == nil {
			t.Errorf("%q: taken", addr)
		}
	}
}
