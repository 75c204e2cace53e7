package accept

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// socketMode is what a unix socket is made with: its user alone reaches it. Who lets others
// in changes it (chmod) once it is there.
const socketMode = 0o600

// turnPatience is far above what binding takes: others lock a folder that all can read, as /tmp.
const turnPatience = 5 * time.Second

// listenUnix binds a socket file. One that nobody listens on any more is replaced; one that
// is in use is not.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	alone, err := turn(ctx, filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer func() { _ = alone.Close() }() // gives the turn to the next one
	l, err := bindUnix(ctx, path)
	if errors.Is(err, syscall.EADDRINUSE) && stale(path) {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("replacing a socket that nobody listens on: %w", err)
		}
		l, err = bindUnix(ctx, path)
	}
	return l, err
}

// turn waits until nobody else binds a socket in a folder, until what it gives is closed. A
// socket that is bound and not listened on yet looks like one that was left, and of two that
// replace one the second would remove what the first made.
func turn(ctx context.Context, dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(turnPatience); ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if ctx.Err() != nil || !errors.Is(err, syscall.EINTR) && time.Now().After(end) {
			return nil, errors.Join(fmt.Errorf("folder %s is locked by another process: %w", dir, err), ctx.Err(), f.Close())
		}
		time.Sleep(time.Millisecond)
	}
}

// bindUnix makes the file with its mode, whatever the umask: bind takes over that of the
// socket (unix_bind in Linux). A chmod afterwards would come too late for who connects at once.
func bindUnix(ctx context.Context, path string) (net.Listener, error) {
	var failed error
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		err := raw.Control(func(fd uintptr) { failed = syscall.Fchmod(int(fd), socketMode) })
		return errors.Join(err, failed)
	}}
	return c.Listen(ctx, "unix", path)
}

// RemoveStale removes a socket that nobody listens on, and leaves everything else.
func RemoveStale(ctx context.Context, path string) error {
	alone, err := turn(ctx, filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() { _ = alone.Close() }()
	if !stale(path) {
		return nil
	}
	return os.Remove(path)
}

// stale says whether path is a socket that nobody listens on. It is asked in one's turn.
func stale(path string) bool {
	st, err := os.Lstat(path)
	if err != nil || st.Mode()&fs.ModeSocket == 0 {
		return false
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close() // somebody is there
		return false
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
