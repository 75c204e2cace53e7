package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dmps/meta/metaclient"
	"dmps/server"
)

// hostIdentity says which machine this is and which boot of it. machine-id(5) is not to
// leave the machine as it is.
func hostIdentity() metaclient.Host {
	h := metaclient.Host{Boot: hashed(bootID())}
	if id, err := os.ReadFile("/etc/machine-id"); err == nil {
		h.Machine = hashed(strings.TrimSpace(string(id)))
	}
	return h
}

// hashed gives a short name for an id; "" of none.
func hashed(id string) string {
	if id == "" {
		return ""
	}
	sum := sha256.Sum256([]byte("dmps " + id))
	return hex.EncodeToString(sum[:6])
}

// stateFolder is the folder of a memory server: it holds a key, and is locked while the
// server lives. A server with the same key on the same machine is the next life of it.
type stateFolder struct {
	key  string
	lock *os.File
}

// takeStateFolder opens the folder, or makes it. Without a path it does nothing.
func takeStateFolder(dir string) (*stateFolder, error) {
	if dir == "" {
		return &stateFolder{}, nil
	}
	fail := func(err error, f *os.File) (*stateFolder, error) {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
		return nil, fmt.Errorf("state folder %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err, nil)
	}
	f, err := os.OpenFile(filepath.Join(dir, "server.key"), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fail(err, nil)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errors.New("another memory server runs on it")
		}
		return fail(err, f)
	}
	b := make([]byte, 64)
	n, _ := f.ReadAt(b, 0) // a short one is made anew
	key := strings.TrimSpace(string(b[:n]))
	if len(key) != 26 {
		key = rand.Text()
		_, err := f.WriteAt([]byte(key+"\n"), 0)
		if err := errors.Join(err, f.Truncate(27), f.Sync()); err != nil {
			return fail(err, f)
		}
	}
	st, err := f.Stat()
	if err != nil {
		return fail(err, f)
	}
	if is, ok := st.Sys().(*syscall.Stat_t); ok {
		key += fmt.Sprintf(" %d %d", is.Dev, is.Ino) // a copy of the folder is another one
	}
	return &stateFolder{hashed(key), f}, nil
}

func (s *stateFolder) release() error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}

// twinAfter is for how long a server that never registered is told that another one
// lives under its id before it gives up: a life of its own that ended is not heard for
// so long.
const twinAfter = 10 * time.Second

// loneID is a Registrar that notices when the server's id is another's.
type loneID struct {
	server.Registrar
	twin chan error // of one; filled when the server is to end

	mu    sync.Mutex
	had   bool      // it has registered
	since time.Time // it was refused; zero: it was not
}

func newLoneID(r server.Registrar) *loneID { return &loneID{Registrar: r, twin: make(chan error, 1)} }

// Register implements server.Registrar.
func (l *loneID) Register(ctx context.Context, info server.Info) error {
	err := l.Registrar.Register(ctx, info)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.had = true
	case !errors.Is(err, metaclient.ErrIDInUse) || l.had:
		l.since = time.Time{}
	case l.since.IsZero():
		l.since = time.Now()
	case time.Since(l.since) > twinAfter:
		select {
		case l.twin <- err:
		default: // it ends already
		}
	}
	return err
}
