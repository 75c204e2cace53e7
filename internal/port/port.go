// Package port keeps ports of this machine for programs that start later, or
// that end and start again.
//
// A port that was seen to be free, and is bound later, may have been taken
// meanwhile: by another program that wants any port, or by an outgoing
// connection. A Held port is bound all the time, by a socket that never listens
// and lets others share its address (SO_REUSEADDR, socket(7)). The kernel gives
// such a port to nobody who asks for any port, and to no connection. Who names
// it can listen there, with SO_REUSEADDR, as Go and most servers do. Meanwhile
// connections to it are refused.
package port

import (
	"errors"
	"fmt"
	"net"
	"strconv"

	"golang.org/x/sys/unix"
)

// Held is a port that is kept at all IPv4 addresses of this machine.
type Held struct {
	number int
	fd     int
}

// Hold takes a port that nobody uses, until Release or the end of this process.
func Hold() (*Held, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("holding a port: %w", err)
	}
	h := &Held{fd: fd}
	if err := h.bind(); err != nil {
		return nil, errors.Join(fmt.Errorf("holding a port: %w", err), unix.Close(fd))
	}
	return h, nil
}

// bind takes the port for this socket alone, and only then shares it: so nobody
// else has it.
func (h *Held) bind() error {
	if err := unix.Bind(h.fd, &unix.SockaddrInet4{}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := unix.SetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return fmt.Errorf("SO_REUSEADDR: %w", err)
	}
	a, err := unix.Getsockname(h.fd)
	if err != nil {
		return fmt.Errorf("getsockname: %w", err)
	}
	h.number = a.(*unix.SockaddrInet4).Port
	return nil
}

// At is the port at a host, for net.Listen and net.Dial.
func (h *Held) At(host string) string { return net.JoinHostPort(host, strconv.Itoa(h.number)) }

// Release gives the port up. Who listens there goes on.
func (h *Held) Release() error {
	if err := unix.Close(h.fd); err != nil {
		return fmt.Errorf("releasing port %d: %w", h.number, err)
	}
	return nil
}
