package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dmps/chaos/e2e/rig"
	"dmps/internal/exitcode"
	"dmps/internal/nbdclient"
)

// second attaches the cluster's volume from another process, by takeover.
func (c *cluster) second(name string) (*rig.Process, *nbdclient.Conn) {
	c.t.Helper()
	dir := c.t.TempDir()
	sock := filepath.Join(c.Config.Dir, name)
	p, err := rig.Start(rig.Spec{
		Name: name, Log: filepath.Join(dir, "log"), Env: []string{"DMPS_META=" + c.MetaURLs()},
		Argv: []string{dmpsBin, "attach", "swap0", "--takeover", "--allow-swappable", "--nbd", "unix:" + sock},
	})
	must(c.t, err)
	c.t.Cleanup(func() {
		if c.t.Failed() {
			c.t.Logf("%s:\n%s", name, rig.Tail(p.Log, 25))
		}
		if err := p.Stop(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			c.t.Logf("stopping %s: %v", name, err)
		}
	})
	ctx := testCtx(c.t)
	var conn *nbdclient.Conn
	must(c.t, p.WaitFor(ctx, func() (err error) {
		conn, err = nbdclient.Dial(ctx, nbdclient.Addr{Network: "unix", Address: sock})
		return err
	}))
	bound(c.t, conn)
	return p, conn
}

// A client is stopped in the middle of a load, another process takes its volume
// and writes all of it, and the first goes on: its NBD clients get errors, it ends
// with a message and an exit code, and nothing of it lands. Then the same with the
// second one, by a third.
func TestTakeoverOfStoppedClient(t *testing.T) {
	const pages, size = 1024, 4096
	c := start(t, small)
	conn := c.dial()
	exited := func() int { return c.Client.PID }
	log := filepath.Join(c.Config.Dir, "logs", "client.log")
	var old *rig.Process
	for round := range 2 {
		pid := exited()
		var taken, stop atomic.Bool
		var refused, late, done atomic.Int64
		var workers sync.WaitGroup
		for w := range 16 {
			workers.Go(func() {
				page := make([]byte, size)
				for n := w; !stop.Load(); n += 16 {
					at := n % pages
					copy(page, bytes.Repeat([]byte{0xa0 + byte(round)}, size))
					binary.LittleEndian.PutUint64(page, uint64(n))
					was := taken.Load()
					_, err := conn.WriteAt(page, int64(at)*size)
					switch {
					case err != nil:
						refused.Add(1)
						if !taken.Load() {
							t.Errorf("a write before the takeover: %v", err)
						}
						return
					case was:
						late.Add(1)
					}
					done.Add(1)
				}
			})
		}
		for begin := time.Now(); done.Load() < 3000; time.Sleep(time.Millisecond) {
			if time.Since(begin) > commandLimit {
				t.Fatal("the load stands still")
			}
		}
		must(t, syscall.Kill(pid, syscall.SIGSTOP))
		begin := time.Now()
		next, fresh := c.second([]string{"second", "third"}[round])
		t.Logf("taken over after %v", time.Since(begin).Round(time.Millisecond))
		mine := make([]byte, size)
		write := func(at int) {
			t.Helper()
			for i := range mine {
				mine[i] = byte(at) ^ byte(i) ^ byte(0x5a+round)
			}
			if _, err := fresh.WriteAt(mine, int64(at)*size); err != nil {
				t.Fatal(err)
			}
		}
		write(0)
		taken.Store(true)
		for at := 1; at < pages; at++ {
			if at == pages/2 {
				must(t, syscall.Kill(pid, syscall.SIGCONT))
			}
			write(at)
		}
		for begin := time.Now(); rig.Alive(pid); time.Sleep(5 * time.Millisecond) {
			if time.Since(begin) > commandLimit {
				t.Fatal("the client that was replaced does not end")
			}
		}
		stop.Store(true)
		workers.Wait()
		if late.Load() != 0 || refused.Load() == 0 {
			t.Errorf("the old client answered %d writes that began after it had been replaced, and refused %d", late.Load(), refused.Load())
		}
		b, err := os.ReadFile(log)
		must(t, err)
		if !strings.Contains(string(b), "another client") {
			t.Errorf("the old client does not say why it ends:\n%s", b)
		}
		if old != nil {
			<-old.Done()
			if code := old.ExitCode(); code != exitcode.Fenced {
				t.Errorf("the old client ended with exit code %d, not %d", code, exitcode.Fenced)
			}
		}
		got := make([]byte, size)
		for at := range pages {
			for i := range mine {
				mine[i] = byte(at) ^ byte(i) ^ byte(0x5a+round)
			}
			if _, err := fresh.ReadAt(got, int64(at)*size); err != nil || !bytes.Equal(got, mine) {
				t.Fatalf("page %d is not what the new client wrote (%v)", at, err)
			}
		}
		old, conn, log = next, fresh, next.Log
		exited = func() int { return next.PID() }
	}
}

// TestLeaseOverSessionsLive: a client that does not renew, but has its sessions, keeps
// its volume: it is not deleted, and not given away.
func TestLeaseOverSessionsLive(t *testing.T) {
	c := start(t, small)
	ld := c.startLoad()
	must(t, c.Freeze(c.Client))
	for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if r := c.dmps("volume", "list"); strings.Contains(r.stdout, "lease has run out") {
			break
		}
		if time.Since(begin) > commandLimit {
			t.Fatal("the lease never runs out")
		}
	}
	refused(t, c.dmps("volume", "delete", "swap0", "--yes"), "have sessions of that client", "--force")
	refused(t, c.dmps("attach", "swap0", "--allow-swappable", "--nbd", "unix:"+filepath.Join(c.Config.Dir, "other.sock")), "have sessions of that client", "--takeover")
	must(t, c.Thaw(c.Client))
	ld.more(1000)
	if r := ld.Stop(); len(r.Violations) > 0 { // that it was frozen shows in the times
		t.Error(r.Err())
	}
}
