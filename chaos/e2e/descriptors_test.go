package e2e

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dmps/meta/metaclient"
	"dmps/raid"
	"dmps/transport"
	"dmps/transport/tcp"
)

// A server that is out of descriptors serves those that have a session, is suspect
// for as long as nobody else gets one, and serves again when there are descriptors.
func TestServerOutOfDescriptors(t *testing.T) {
	c := start(t, small)
	m, err := metaclient.New([]string{c.Meta[0].API})
	must(t, err)
	defer m.Close()
	ctx := testCtx(t)
	s := c.Servers[0]
	until := func(state string) {
		t.Helper()
		for last := ""; last != state; time.Sleep(20 * time.Millisecond) {
			if ctx.Err() != nil {
				t.Fatalf("%s is %s and not %s", s.ID, last, state)
			}
			all, err := m.Servers(ctx)
			must(t, err)
			for _, sv := range all {
				if sv.ID == raid.ServerID(s.ID) {
					last = sv.State
				}
			}
		}
	}
	ld := c.startLoad()
	ld.more(500)
	open, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(s.PID), "fd"))
	must(t, err)
	var was unix.Rlimit
	must(t, unix.Prlimit(s.PID, unix.RLIMIT_NOFILE, nil, &was))
	must(t, unix.Prlimit(s.PID, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(len(open)) + 8, Max: was.Max}, nil))
	var silent []net.Conn
	defer func() {
		for _, nc := range silent {
			nc.Close()
		}
	}()
	for range 100 {
		nc, err := net.Dial("tcp", s.Addr)
		must(t, err)
		silent = append(silent, nc)
	}
	until(metaclient.ServerSuspect)
	ld.more(500)
	for _, nc := range silent {
		must(t, nc.Close())
	}
	silent = nil
	until(metaclient.ServerUp)
	// The limit is as low as it was: it is the connections that are gone.
	var d tcp.Dialer
	_, _, err = d.Dial(ctx, "tcp://"+s.Addr, transport.Hello{Cluster: "another", Volume: 1, Epoch: 1}, nil)
	if !errors.Is(err, transport.ErrRefused) {
		t.Errorf("a hello is not answered: %v", err)
	}
	must(t, d.Close())
	ld.more(500)
	ld.flawless()
	c.awaitStatus(healthy, rebuildLimit)
}
