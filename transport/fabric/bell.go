//go:build fabric && cgo

package fabric

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// bell is a page that both ends of a session have mapped, on one machine: where
// the provider gives no descriptor to sleep on (shm), the server sleeps on a
// futex in it, and the client rings when it has posted something.
//
// The client makes it, of memory that nobody can make shorter any more: what the
// server has mapped stays. The server takes it only from a process of its own user,
// which shows by a word in it that it is the one that asks.
type bell struct {
	mem []byte
	f   *os.File // the client's, until the server has it open
}

const (
	bellMemory = "dmps-bell" // as /proc/PID/fd shows it
	bellToken  = 16          // bytes, at bellProof
	bellProof  = 1024
	bellSeals  = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
)

func newBell() (*bell, error) {
	fd, err := unix.MemfdCreate(bellMemory, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making a bell: %w", err)
	}
	b := &bell{f: os.NewFile(uintptr(fd), bellMemory)}
	err = b.f.Truncate(int64(os.Getpagesize()))
	if err == nil {
		_, err = unix.FcntlInt(b.f.Fd(), unix.F_ADD_SEALS, bellSeals)
	}
	if err == nil {
		err = b.mapFile(b.f)
	}
	if err != nil {
		b.close()
		return nil, fmt.Errorf("making a bell: %w", err)
	}
	_, _ = rand.Read(b.mem[bellProof:][:bellToken]) // never fails
	return b, nil
}

// name is where the server finds it, and what it holds: PID/FD/TOKEN. It is good
// until handedOver.
func (b *bell) name() string {
	return fmt.Sprintf("%d/%d/%x", os.Getpid(), b.f.Fd(), b.mem[bellProof:][:bellToken])
}

// openBell opens the client's. The name is from the wire.
func openBell(name string) (*bell, error) {
	f := strings.Split(name, "/")
	if len(f) != 3 {
		return nil, fmt.Errorf("%w: bell %q", errMessage, name)
	}
	pid, err1 := strconv.ParseUint(f[0], 10, 31)
	fd, err2 := strconv.ParseUint(f[1], 10, 31)
	token, err3 := hex.DecodeString(f[2])
	if err1 != nil || err2 != nil || err3 != nil || len(token) != bellToken {
		return nil, fmt.Errorf("%w: bell %q", errMessage, name)
	}
	file, err := openMemory(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
	if err != nil {
		return nil, fmt.Errorf("opening the client's bell: %w", err)
	}
	defer file.Close()
	b := new(bell)
	if err := b.mapFile(file); err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(b.mem[bellProof:][:bellToken], token) != 1 {
		b.close()
		return nil, fmt.Errorf("%w: the bell is somebody else's", errMessage)
	}
	return b, nil
}

// openMemory opens the memory of a bell, and nothing else: not even to look at may a
// pipe or a device be opened.
func openMemory(path string) (*os.File, error) {
	look, err := os.OpenFile(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer look.Close()
	if err := ours(look); err != nil {
		return nil, err
	}
	self := fmt.Sprintf("/proc/self/fd/%d", look.Fd())
	if to, err := os.Readlink(self); err != nil || to != "/memfd:"+bellMemory+" (deleted)" {
		return nil, fmt.Errorf("%w: %q is no bell: %v", errMessage, to, err)
	}
	f, err := os.OpenFile(self, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err == nil && seals&unix.F_SEAL_SHRINK == 0 {
		err = fmt.Errorf("%w: the client could take it away", errMessage)
	}
	if err == nil {
		err = longEnough(f) // with the seal: for good
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ours refuses files of other users, and what is no memory.
func ours(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%w: no memory", errMessage)
	}
	if int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: it is of user %d, and this server of user %d: shared memory is for one user", errMessage, st.Uid, os.Geteuid())
	}
	return nil
}

func longEnough(f *os.File) error {
	st, err := f.Stat()
	if err == nil && st.Size() < int64(os.Getpagesize()) {
		err = fmt.Errorf("%w: memory of %d bytes", errMessage, st.Size())
	}
	return err
}

// Of provider shm, whose endpoints are named for the memory that they share.
const (
	regionDir    = "/dev/shm/"
	regionPrefix = "fi_shm://"
)

// checkRegion refuses the address of an endpoint of provider shm that is not of a
// process of this user: libfabric maps its memory, and trusts what is there. Nobody
// else can exchange the file, since the folder is sticky.
func checkRegion(addr []byte) error {
	name, ok := strings.CutPrefix(strings.TrimRight(string(addr), "\x00"), regionPrefix)
	if !ok || name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%w: shared memory %q", errMessage, addr)
	}
	f, err := os.OpenFile(regionDir+name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("looking at the client's shared memory: %w", err)
	}
	defer f.Close()
	if err := ours(f); err != nil {
		return fmt.Errorf("the client's shared memory: %w", err)
	}
	return longEnough(f)
}

func (b *bell) mapFile(f *os.File) error {
	var err error
	b.mem, err = unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping a bell: %w", err)
	}
	return nil
}

// handedOver ends that others can open it.
func (b *bell) handedOver() {
	if b.f != nil {
		b.f.Close()
		b.f = nil
	}
}

func (b *bell) close() {
	b.handedOver()
	if b.mem != nil {
		_ = unix.Munmap(b.mem) // a mapping of our own: cannot fail
		b.mem = nil
	}
}
