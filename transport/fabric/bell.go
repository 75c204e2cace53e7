//go:build fabric && cgo

package fabric

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// bell is a page that both ends of a session have mapped, on one machine: where
// the provider gives no descriptor to sleep on (shm), the server sleeps on a
// futex in it, and the client rings when it has posted something.
//
// The client makes it and takes its name away once the server has it open.
type bell struct {
	mem  []byte
	name string // in bellDir; empty: taken away
}

const (
	bellDir    = "/dev/shm"
	bellPrefix = "dmps-bell-"
)

func newBell() (*bell, error) {
	var r [16]byte
	_, _ = rand.Read(r[:]) // never fails
	b := &bell{name: bellPrefix + fmt.Sprintf("%x", r)}
	f, err := os.OpenFile(filepath.Join(bellDir, b.name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making a bell: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(int64(os.Getpagesize())); err != nil {
		b.unname()
		return nil, fmt.Errorf("making a bell: %w", err)
	}
	if err := b.mapFile(f); err != nil {
		b.unname()
		return nil, err
	}
	return b, nil
}

// openBell opens the client's. The name is from the wire.
func openBell(name string) (*bell, error) {
	if !strings.HasPrefix(name, bellPrefix) || strings.ContainsAny(name, "/\x00") {
		return nil, fmt.Errorf("%w: bell %q", errMessage, name)
	}
	f, err := os.OpenFile(filepath.Join(bellDir, name), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the client's bell: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening the client's bell: %w", err)
	}
	if !st.Mode().IsRegular() || st.Size() < int64(os.Getpagesize()) {
		return nil, fmt.Errorf("%w: bell of %d bytes", errMessage, st.Size())
	}
	b := new(bell)
	return b, b.mapFile(f)
}

func (b *bell) mapFile(f *os.File) error {
	var err error
	b.mem, err = unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping a bell: %w", err)
	}
	return nil
}

// unname takes the name away: nobody else is to open it.
func (b *bell) unname() {
	if b.name == "" {
		return
	}
	if err := os.Remove(filepath.Join(bellDir, b.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return // one page of a name that nobody guesses stays
	}
	b.name = ""
}

func (b *bell) close() {
	b.unname()
	if b.mem != nil {
		_ = unix.Munmap(b.mem) // a mapping of our own: cannot fail
		b.mem = nil
	}
}
