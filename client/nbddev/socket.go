package nbddev

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Pair returns a connected pair of sockets: one for the kernel, whose
// descriptor the caller closes once the kernel has it, and one to serve.
func Pair() (kernel *os.File, ours net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("a pair of sockets: %w", err)
	}
	kernel = os.NewFile(uintptr(fds[0]), "nbd kernel socket")
	served := os.NewFile(uintptr(fds[1]), "nbd client socket")
	err = unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer)
	if err != nil {
		err = fmt.Errorf("giving the kernel's socket a send buffer of %d MiB: %w", sendBuffer>>20, err)
	} else {
		ours, err = net.FileConn(served) // duplicates it
	}
	if cerr := served.Close(); err != nil || cerr != nil {
		err = errors.Join(err, cerr, kernel.Close())
		if ours != nil {
			err = errors.Join(err, ours.Close())
		}
		return nil, nil, err
	}
	return kernel, ours, nil
}
