package nbd

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// WatchPeer does to a TCP connection what a server does, and tells what came of it.
func WatchPeer(t *testing.T, nc net.Conn, stall time.Duration) (alive bool, idle, unacked int) {
	t.Helper()
	if err := (&Config{StallTimeout: stall}).watchPeer(nc); err != nil {
		t.Fatal(err)
	}
	rc, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	get := func(level, opt int) (n int) {
		t.Helper()
		if err := rc.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), level, opt) }); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return get(unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 0, get(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE), get(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
}
