package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"dmps/internal/accept"
)

// Sockets of a client: only its user reaches them. An address on loopback is reached by
// every user of the machine.

// ownSocket is the value of --admin and --nbd for a socket in the folder of this user.
const ownSocket = "unix"

// socketDir is where this user's sockets are: what systemd made for the unit, /run/dmps for
// root, or the user's own folder. It is made when missing.
func socketDir() (string, error) {
	if dir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":"); dir != "" {
		return dir, nil
	}
	if os.Geteuid() == 0 {
		return runDir, os.MkdirAll(runDir, 0o755)
	}
	dir := filepath.Join(os.TempDir(), "dmps-"+strconv.Itoa(os.Geteuid()))
	if own := os.Getenv("XDG_RUNTIME_DIR"); own != "" {
		dir = filepath.Join(own, "dmps")
	}
	return dir, ownFolder(dir)
}

// ownFolder makes a folder in a place where others may have made it before.
func ownFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var st unix.Stat_t
	switch err := unix.Lstat(dir, &st); {
	case err != nil:
		return fmt.Errorf("folder %s: %w", dir, err)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0:
		return fmt.Errorf("folder %s is not a folder of this user alone: somebody else made it; set XDG_RUNTIME_DIR", dir)
	}
	return nil
}

// nbdSocket is where a volume is served over NBD when no address is given.
func nbdSocket(volume string) (string, error) {
	dir, err := socketDir()
	if err != nil {
		return "", fmt.Errorf("a place for the NBD socket: %w", err)
	}
	return "unix:" + filepath.Join(dir, "nbd-"+volume+".sock"), nil
}

// listenAdmin opens an admin address: HOST:PORT, unix:PATH, or ownSocket for one of this
// process. It gives how others call it.
func listenAdmin(ctx context.Context, addr, volume string) (l net.Listener, base string, err error) {
	if addr == ownSocket {
		dir, err := socketDir()
		if err != nil {
			return nil, "", listenError("admin", addr, err)
		}
		// Another attach of the volume may live still: --takeover.
		name := filepath.Join(dir, "admin-"+volume+"-")
		left, _ := filepath.Glob(name + "*.sock") // the pattern is sound
		for _, path := range left {
			_ = accept.RemoveStale(ctx, path) // of one that was killed; in nobody's way
		}
		addr = "unix:" + name + strconv.Itoa(os.Getpid()) + ".sock"
	}
	path, local := strings.CutPrefix(addr, "unix:")
	if !local {
		if l, err = listen(ctx, "admin", addr); err != nil {
			return nil, "", err
		}
		return l, "http://" + l.Addr().String(), nil
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, "", listenError("admin", addr, err)
	}
	if l, err = accept.Listen(ctx, "unix", path, nil); err != nil {
		return nil, "", listenError("admin", addr, err)
	}
	return l, "unix://" + path, nil
}

// askAdmin carries out a request to a client's admin address, http://HOST:PORT or
// unix:///PATH. build makes it of the URL for a path of the API.
func askAdmin(base string, build func(base string) (*http.Request, error)) (*http.Response, error) {
	path, local := strings.CutPrefix(base, "unix://")
	if !local {
		req, err := build(strings.TrimSuffix(base, "/"))
		if err != nil {
			return nil, err
		}
		res, err := http.DefaultClient.Do(req)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("nobody listens at its admin address %s: it has ended, or was killed. Start it again with 'dmps attach'; 'dmps status' says whose the volume is: %w", base, err)
		}
		return res, err
	}
	req, err := build("http://localhost")
	if err != nil {
		return nil, err
	}
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	res, err := (&http.Client{Transport: t}).Do(req)
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("its admin address is the socket %s of its host, and nobody has it here: ask on the host that has the volume attached, as the same user or root; if that is here, the client has ended: start it again with 'dmps attach'", path)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("its admin address is the socket %s of another user: ask as that user or root", path)
	}
	return res, err
}
