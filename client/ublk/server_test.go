package ublk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"dmps/client"
	"dmps/client/devicetest"
	"dmps/internal/blockdev"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == blockdev.Command {
		calls := maps.Clone(Calls)
		maps.Copy(calls, blockdev.Calls)
		os.Exit(blockdev.ServeCall(calls, os.Args[2:], os.Stdin, os.Stdout))
	}
	if what := os.Getenv(childEnv); what != "" {
		if err := child(what); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// up starts a server on k. What is not stopped or left at the end is killed.
func up(t testing.TB, k *fakeKernel, cfg Config) *Server {
	t.Helper()
	if cfg.Identity == "" {
		cfg.Identity = "cluster/7"
	}
	cfg.Log = quiet
	s, err := start(t.Context(), k, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-s.ended:
		default:
			k.kill(s.id)
			<-s.ended
		}
	})
	return s
}

func fill(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	_, _ = r.Read(b) // never fails
	return b
}

func at(op uint32, page, pages int) ioDesc {
	return ioDesc{op, uint32(pages * pageSize >> sectorSh), uint64(page * pageSize >> sectorSh)}
}

// TestModel lets many users of the block device do random requests, each on
// pages of its own, and compares what they read with what they wrote.
func TestModel(t *testing.T) {
	for _, c := range []struct{ queues, depth, arena int }{{1, 1, 64}, {1, 8, 40}, {3, 4, 200}, {2, 16, 33}} {
		k := newFakeKernel(t)
		const users, region = 12, 96
		d := devicetest.New(t, devicetest.NewDisk(users*region*pageSize), c.arena, false)
		s := up(t, k, Config{Device: d, Queues: c.queues, Depth: c.depth})
		var wg sync.WaitGroup
		for u := range users {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(u), 3))
				model := make([]byte, region*pageSize)
				for i := range 60 {
					page := rnd.IntN(region)
					n := 1 + rnd.IntN(min(32, region-page))
					part := model[page*pageSize : (page+n)*pageSize]
					want, data := int32(0), []byte(nil)
					op := []uint32{opRead, opRead, opWrite, opWrite, opWrite | flagFUA, opDiscard, opWriteZeroes, opFlush}[rnd.IntN(8)]
					switch op & 0xff {
					case opRead:
						data, want = fill(len(part), 99), int32(len(part))
					case opWrite:
						data, want = fill(len(part), uint64(u<<8+i)), int32(len(part))
						copy(part, data)
					case opDiscard, opWriteZeroes:
						clear(part)
					}
					if got := k.io(s.ID(), at(op, u*region+page, n), data); got != want {
						t.Errorf("op %d: result %d, want %d", op, got, want)
					}
					if op == opRead && !bytes.Equal(data, part) {
						t.Errorf("user %d read something else than it wrote", u)
					}
				}
			})
		}
		wg.Wait()
		st := s.Stats()
		if st.Errors != 0 || st.Reads == 0 || st.Writes == 0 || st.Trims == 0 || st.Flushes == 0 || st.WriteBytes == 0 {
			t.Errorf("%+v", st)
		}
		if c.arena < 64 && st.Waits == 0 {
			t.Errorf("%+v: nothing waited for buffers: the test is too tame", c)
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if ids, err := k.devices(); len(ids) != 0 || err != nil {
			t.Errorf("left over: %v, %v", ids, err)
		}
		d.Close(t)
	}
}

// TestErrors is what the kernel hears of requests that fail.
func TestErrors(t *testing.T) {
	k := newFakeKernel(t)
	d := devicetest.New(t, devicetest.NewDisk(256*pageSize), 64, false)
	s := up(t, k, Config{Device: d})
	var fault error
	d.SetFault(func(*client.Op) error { return fault })
	page := make([]byte, 1<<20)
	for _, c := range []struct {
		name  string
		fault error
		desc  ioDesc
		want  unix.Errno
	}{
		{"gone", client.ErrLost, at(opRead, 0, 1), unix.EIO},
		{"no space is not the writer's fault", client.ErrNoSpace, at(opWrite, 0, 1), unix.EIO},
		{"flush of a fenced client", client.ErrFenced, at(opFlush, 0, 0), unix.EIO},
		{"closed", client.ErrClosed, at(opDiscard, 0, 1), unix.EIO},
		{"not known", errors.New("?"), at(opWriteZeroes, 0, 1), unix.EIO},
		{"range", client.ErrRange, at(opRead, 0, 1), unix.EINVAL},
		{"zoned", nil, at(10, 0, 1), unix.EOPNOTSUPP},
		{"behind the end", nil, at(opRead, 256, 1), unix.EINVAL},
		{"over the end", nil, at(opWrite, 255, 2), unix.EINVAL},
		{"overflow", nil, ioDesc{opRead, 8, 1<<64 - 1}, unix.EINVAL},
		{"nothing", nil, at(opRead, 1, 0), unix.EINVAL},
		{"too much", nil, at(opWrite, 0, 33), unix.EINVAL},
	} {
		fault = c.fault
		if got := k.io(s.ID(), c.desc, page); got != -int32(c.want) {
			t.Errorf("%s: result %d, want %d", c.name, got, -int32(c.want))
		}
	}
	fault = nil
	d.Map(3, 2) // with buffers of its own, not the constant page
	for _, op := range []uint32{opRead, opWrite} {
		k.mu.Lock()
		k.fail["copy"] = unix.EFAULT
		k.mu.Unlock()
		if got := k.io(s.ID(), at(op, 3, 2), page); got != -int32(unix.EIO) {
			t.Errorf("op %d whose pages could not be copied: result %d", op, got)
		}
		if n := d.State().FreePages; n != 64 {
			t.Errorf("op %d whose pages could not be copied keeps %d buffers", op, 64-n)
		}
		k.mu.Lock()
		delete(k.fail, "copy")
		k.mu.Unlock()
		if got := k.io(s.ID(), at(op, 3, 2), page); got != 2*pageSize {
			t.Errorf("op %d after that: result %d", op, got)
		}
	}
	if st := s.Stats(); st.Errors != 14 {
		t.Errorf("%d errors counted", st.Errors)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestInUse does not take a device from under a file system.
func TestInUse(t *testing.T) {
	k := newFakeKernel(t)
	d := devicetest.New(t, devicetest.NewDisk(64*pageSize), 64, false)
	s := up(t, k, Config{Device: d, ID: 5})
	if s.ID() != 5 || s.Path() != "/dev/ublkb5" || s.Recovered() {
		t.Errorf("%s, %d, recovered %v", s.Path(), s.ID(), s.Recovered())
	}
	k.used[5] = true
	if err := s.Stop(t.Context()); !errors.Is(err, blockdev.ErrInUse) {
		t.Fatalf("stopped a device in use: %v", err)
	}
	if got := k.io(5, at(opWrite, 0, 1), fill(pageSize, 1)); got != pageSize {
		t.Errorf("after that: result %d", got)
	}
	if err := s.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if i, err := k.info(5); i.state != stateQuiesced || err != nil {
		t.Errorf("left %v, %v", i.state, err)
	}
}

// A claim that was taken holds until the device is gone, and is given back when it
// is left.
func TestClaim(t *testing.T) {
	k := newFakeKernel(t)
	d := devicetest.New(t, devicetest.NewDisk(64*pageSize), 64, false)
	s := up(t, k, Config{Device: d})
	k.used[s.ID()] = true
	if err := s.Claim(t.Context()); !errors.Is(err, blockdev.ErrInUse) {
		t.Errorf("claimed a device in use: %v", err)
	}
	k.used[s.ID()] = false
	for range 2 { // told twice
		if err := s.Claim(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := k.claims.Load(); n != 1 {
		t.Errorf("%d claims", n)
	}
	// Whoever comes now does not get it.
	k.used[s.ID()] = true
	if err := s.Stop(t.Context()); err != nil {
		t.Errorf("stopping what is claimed: %v", err)
	}
	if n := k.claims.Load(); n != 0 {
		t.Errorf("%d claims are left", n)
	}
	s = up(t, k, Config{Device: d, ID: 7})
	if err := s.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := k.claims.Load(); n != 0 {
		t.Errorf("%d claims are left", n)
	}
}

// A device that could not be stopped is still there, is served, and can be left to
// the next client.
func TestStopFails(t *testing.T) {
	k := newFakeKernel(t)
	s := up(t, k, Config{Device: devicetest.New(t, devicetest.NewDisk(64*pageSize), 64, false)})
	broken := errors.New("broken")
	k.fail["stop"] = broken
	if err := s.Stop(t.Context()); !errors.Is(err, broken) || s.Stopping() {
		t.Errorf("%v, stopping %v", err, s.Stopping())
	}
	if got := k.io(s.ID(), at(opWrite, 0, 1), fill(pageSize, 1)); got != pageSize {
		t.Errorf("after that: result %d", got)
	}
	if err := s.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if i, err := k.info(s.ID()); i.state != stateQuiesced || err != nil {
		t.Errorf("left %v, %v", i.state, err)
	}
}

// TestStopWaits stops a device with requests in flight: they are answered.
func TestStopWaits(t *testing.T) {
	k := newFakeKernel(t)
	d := devicetest.New(t, devicetest.NewDisk(64*pageSize), 64, false)
	s := up(t, k, Config{Device: d})
	d.Pause(true)
	r := &fakeReq{desc: at(opWrite, 1, 2), data: fill(2*pageSize, 1), res: make(chan int32, 1)}
	k.begin(s.ID(), r)
	d.WaitFor(func(s devicetest.State) bool { return s.Waiting >= 1 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("stopping without patience: %v", err)
	}
	d.Pause(false)
	if got := <-r.res; got != 2*pageSize {
		t.Errorf("result %d", got)
	}
	<-s.ended
	if err := s.Err(); err != nil {
		t.Errorf("an ordinary stop is reported as %v", err)
	}
	for ids, err := k.devices(); len(ids) > 0; ids, err = k.devices() {
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // the removal that nobody waits for
	}
}

// TestStoppedByOthers is "ublk del" behind our back.
func TestStoppedByOthers(t *testing.T) {
	k := newFakeKernel(t)
	s := up(t, k, Config{Device: devicetest.New(t, devicetest.NewDisk(64*pageSize), 64, false)})
	if err := s.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := k.stop(s.ID()); err != nil {
		t.Fatal(err)
	}
	<-s.Failed()
	<-s.ended
	if err := s.Err(); !errors.Is(err, errStopped) {
		t.Error(err)
	}
	if err := s.Stop(t.Context()); err != nil || !s.Stopping() || k.claims.Load() != 0 {
		t.Errorf("%v, stopping %v, %d claims", err, s.Stopping(), k.claims.Load())
	}
	if len(k.devs) != 0 {
		t.Error("the rest of the device is left")
	}
}

// TestQueueFails takes the device down with one of its queues, and leaves it to
// the next client.
func TestQueueFails(t *testing.T) {
	k := newFakeKernel(t)
	d := devicetest.New(t, devicetest.NewDisk(64*pageSize), 64, false)
	s := up(t, k, Config{Device: d, Queues: 3})
	d.Pause(true)
	r := &fakeReq{desc: at(opRead, 1, 2), data: make([]byte, 2*pageSize), res: make(chan int32, 1)}
	k.begin(s.ID(), r)
	d.WaitFor(func(s devicetest.State) bool { return s.Waiting >= 1 })
	broken := errors.New("broken")
	k.mu.Lock()
	for _, p := range k.devs[s.ID()].ports {
		if p.no != k.devs[s.ID()].next { // not the one with the request
			p.broken = broken
		}
	}
	k.cond.Broadcast()
	k.mu.Unlock()
	<-s.Failed()
	if err := s.Err(); !errors.Is(err, broken) {
		t.Error(err)
	}
	d.Pause(false)
	if err := s.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := <-r.res; got != 2*pageSize { // it ended well before the queue left
		t.Errorf("result %d", got)
	}
}

// TestLateAnswers has answers come back to a queue that has broken down: their
// buffers go home.
func TestLateAnswers(t *testing.T) {
	k := newFakeKernel(t)
	d := devicetest.New(t, devicetest.NewDisk(64*pageSize), 64, false)
	d.Map(1, 2)
	s := up(t, k, Config{Device: d, Queues: 1})
	d.Pause(true)
	for _, op := range []uint32{opRead, opWrite} {
		k.begin(s.ID(), &fakeReq{desc: at(op, 1, 2), data: make([]byte, 2*pageSize), res: make(chan int32, 1)})
	}
	d.WaitFor(func(s devicetest.State) bool { return s.Waiting >= 2 })
	k.kill(s.ID())
	<-s.ended
	d.Pause(false)
	d.WaitFor(func(s devicetest.State) bool { return s.FreePages == 64 && s.Running == 0 })
}

func TestConfig(t *testing.T) {
	d := devicetest.New(t, devicetest.NewDisk(64*pageSize), 64, true)
	for name, c := range map[string]Config{
		"no device":   {Identity: "x"},
		"no identity": {Device: d},
		"depth":       {Device: d, Identity: "x", Depth: 5000},
		"queues":      {Device: d, Identity: "x", Queues: -1},
		"id":          {Device: d, Identity: "x", ID: -2},
		"unaligned":   {Device: d, Identity: "x", MaxIO: 5000},
		"too large":   {Device: d, Identity: "x", MaxIO: 8 << 20},
	} {
		if s, err := start(t.Context(), newFakeKernel(t), c); err == nil {
			t.Errorf("%s: %v", name, s)
		}
	}
	k := newFakeKernel(t)
	k.have = featRecovery
	if _, err := start(t.Context(), k, Config{Device: d, Identity: "x"}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("an old kernel: %v", err)
	}
}

// TestStartFails leaves nothing behind, whatever does not work.
func TestStartFails(t *testing.T) {
	for _, what := range []string{"add", "set", "port", "open", "start"} {
		k := newFakeKernel(t)
		broken := errors.New("broken")
		k.fail[what] = broken
		_, err := start(t.Context(), k, Config{Device: devicetest.New(t, devicetest.NewDisk(64*pageSize), 64, true), Identity: "x", Log: quiet})
		if !errors.Is(err, broken) {
			t.Errorf("%s: %v", what, err)
		}
		if len(k.devs) != 0 {
			t.Errorf("%s: a device is left", what)
		}
	}
}

// TestWaiting: who asks for a volume's device is told of one that waits, and of
// no other.
func TestWaiting(t *testing.T) {
	k := newFakeKernel(t)
	if path, found, err := waiting(k, "x"); found || err != nil {
		t.Errorf("%q, %v", path, err)
	}
	s, err := start(t.Context(), k, Config{Device: devicetest.New(t, devicetest.NewDisk(64*pageSize), 64, true), Identity: "x", Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if path, found, err := waiting(k, "x"); !found || err != nil || path != s.Path() {
		t.Errorf("%q, %v, %v", path, found, err)
	}
	if path, found, err := waiting(k, "y"); found || err != nil {
		t.Errorf("another's: %q, %v", path, err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if path, found, err := waiting(k, "x"); found || err != nil {
		t.Errorf("after it was stopped: %q, %v", path, err)
	}
}

// waiting is where a volume's device is, as listHeld says.
func waiting(k kernel, identity string) (path string, found bool, err error) {
	all, err := listHeld(k)
	for _, d := range all {
		if d.Tag == Tag(identity) {
			return d.Path, true, err
		}
	}
	return "", false, err
}
