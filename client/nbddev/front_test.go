package nbddev

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
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
	// Under the race detector each process that makes a call would sleep a second at its end.
	if err := os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

const (
	read  = 0
	write = 1
	page  = 4096
	size  = 256 * page
)

// messages are what was logged.
type messages struct {
	mu       sync.Mutex
	all      []string
	offering chan struct{} // when not nil: gets something when an offer failed
}

func (m *messages) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = append(m.all, string(b))
	if m.offering != nil && strings.Contains(string(b), "offering") {
		m.offering <- struct{}{}
	}
	return len(b), nil
}

func (m *messages) with(text string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.all {
		if strings.Contains(s, text) {
			n++
		}
	}
	return n
}

func logTo(m *messages) *slog.Logger { return slog.New(slog.NewTextHandler(m, nil)) }

// served is a device of the fake kernel, whose disk is dev, and the front that serves it.
func served(t *testing.T) (*fakeKernel, *devicetest.Device, *Front) {
	t.Helper()
	k := newFakeKernel(t)
	dev := devicetest.New(t, devicetest.NewDisk(size), 64, false)
	f, err := k.up(Config{Path: "nbd"}, dev)
	if err != nil {
		t.Fatal(err)
	}
	return k, dev, f
}

// A device is made with its queue set, serves, and is gone after Close.
func TestStart(t *testing.T) {
	k, dev, f := served(t)
	if f.Path() != "/dev/nbd0" {
		t.Error(f.Path())
	}
	if wrong, err := untuned(k.sys, 0); len(wrong) > 0 || err != nil {
		t.Errorf("the queue is not set: %v, %v", wrong, err)
	}
	want, got := bytes.Repeat([]byte{7}, page), make([]byte, page)
	if err := errors.Join(k.io(0, write, 8*page, want), k.io(0, read, 8*page, got)); err != nil || !bytes.Equal(want, got) {
		t.Errorf("what was written was not read: %v", err)
	}
	for range 2 {
		if err := f.Claim(t.Context()); err != nil {
			t.Errorf("claiming it: %v", err)
		}
	}
	// From here on nobody else gets it, and Close does not ask.
	f.on.claim = func(context.Context, string) (func() error, error) { return nil, blockdev.ErrInUse }
	if kept, err := f.Close(t.Context()); kept || err != nil {
		t.Errorf("kept %v, %v", kept, err)
	}
	if k.devs[0].configured {
		t.Error("the device is there")
	}
	dev.Close(t)
}

// A volume has one device, whatever number is asked for, and a device that is
// another volume's is left alone.
func TestOneDeviceAVolume(t *testing.T) {
	k := newFakeKernel(t)
	dev := devicetest.New(t, devicetest.NewDisk(size), 64, false)
	f, err := k.up(Config{Path: "/dev/nbd3"}, dev)
	if err != nil {
		t.Fatal(err)
	}
	kill(f)
	for path, want := range map[string]error{"/dev/nbd1": ErrElsewhere, "/dev/nbd0": ErrElsewhere} {
		if _, err := k.up(Config{Path: path}, dev); !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := k.up(Config{Path: "/dev/nbd3", Identifier: "dmps/c/v/2"}, dev); !errors.Is(err, ErrBusy) {
		t.Errorf("another volume's: %v", err)
	}
	if n := k.commands(cmdConnect); n != 1 {
		t.Errorf("%d devices were made", n)
	}
	other, err := k.up(Config{Path: "nbd", Identifier: "dmps/c/v/2"}, dev)
	if err != nil || other.Path() != "/dev/nbd0" {
		t.Errorf("a second volume: %v", err)
	}
	again, err := k.up(Config{Path: "nbd"}, dev)
	if err != nil || again.Path() != "/dev/nbd3" {
		t.Fatalf("the device that waits was not gone on with: %v", err)
	}
	if err := k.io(3, read, 0, make([]byte, page)); err != nil {
		t.Error(err)
	}
	kill(again)
	kill(other)
	dev.Close(t)
}

// A kernel that does not keep whose a device is gets none: no later client could
// find it again.
func TestKernelThatKeepsNoIdentifier(t *testing.T) {
	k := newFakeKernel(t)
	k.old = true
	dev := devicetest.New(t, devicetest.NewDisk(size), 64, false)
	if _, err := k.up(Config{Path: "nbd"}, dev); !errors.Is(err, ErrTooOld) {
		t.Error(err)
	}
	if k.devs[0].configured {
		t.Error("the device is left")
	}
	dev.Close(t)
}

// The client is killed with a request in it; the next one answers it, and what
// came in between.
func TestKill(t *testing.T) {
	k := newFakeKernel(t)
	disk := devicetest.NewDisk(size)
	first := devicetest.New(t, disk, 64, false)
	f, err := k.up(Config{Path: "nbd"}, first)
	if err != nil {
		t.Fatal(err)
	}
	k.use(0, true)
	first.Pause(true)
	want := bytes.Repeat([]byte{3}, page)
	late := k.begin(0, write, 0, want)
	first.WaitFor(func(s devicetest.State) bool { return s.Waiting == 1 })
	f.cancel()
	first.SetFault(func(*client.Op) error { return client.ErrClosed }) // as a volume that is closed
	first.Pause(false)
	kill(f)
	first.Close(t)
	k.until(func() bool { return k.devs[0].socks[0].dead })
	between := k.begin(0, write, page, want)

	second := devicetest.New(t, disk, 64, false)
	if _, err := k.up(Config{Path: "/dev/nbd0"}, second); err != nil {
		t.Fatal(err)
	}
	if err := <-between.res; err != nil {
		t.Errorf("what came between: %v", err)
	}
	k.expire(0, late)
	if err := <-late.res; err != nil {
		t.Errorf("what was in flight: %v", err)
	}
	if !disk.Holds(0, want) || !disk.Holds(page, want) {
		t.Error("a write is not there")
	}
}

// A request is late, and the kernel gives the connection up. A new one is offered
// only when nothing of the old one is in the client: an old write would land
// over a newer one.
func TestOldConnectionEndsFirst(t *testing.T) {
	k := newFakeKernel(t)
	disk := devicetest.NewDisk(size)
	dev := devicetest.New(t, disk, 64, false)
	k.check = func(command uint8) {
		if command == cmdReconfigure && dev.State().Waiting > 0 {
			t.Error("a new connection was offered while a request of the old one was in the client")
		}
	}
	if _, err := k.up(Config{Path: "nbd"}, dev); err != nil {
		t.Fatal(err)
	}
	dev.Pause(true)
	r := k.begin(0, write, 0, make([]byte, page))
	dev.WaitFor(func(s devicetest.State) bool { return s.Waiting == 1 })
	k.expire(0, r)
	time.Sleep(3 * renewFirst) // in which it could be offered, wrongly
	dev.Pause(false)
	if err := <-r.res; err != nil {
		t.Error(err)
	}
}

// A device that is in use is left, and nothing else is.
func TestCloseOfAUsedDevice(t *testing.T) {
	k, dev, f := served(t)
	k.use(0, true)
	if err := f.Claim(t.Context()); !errors.Is(err, blockdev.ErrInUse) {
		t.Errorf("claiming it: %v", err)
	}
	if kept, err := f.Close(t.Context()); !kept || err != nil {
		t.Errorf("kept %v, %v", kept, err)
	}
	if k.commands(cmdDisconnect) > 0 {
		t.Error("what is swapped out was taken away")
	}
	dev.Close(t)
}

// Somebody disconnects the device, in use or not: that is noticed, said once, and
// whoever has the device then keeps it.
func TestDisconnectedByAnother(t *testing.T) {
	for name, used := range map[string]bool{"unused": false, "in use": true} {
		t.Run(name, func(t *testing.T) {
			k := newFakeKernel(t)
			dev := devicetest.New(t, devicetest.NewDisk(size), 64, false)
			said := &messages{offering: make(chan struct{}, 100)}
			f, err := k.up(Config{Path: "nbd", Log: logTo(said)}, dev)
			if err != nil {
				t.Fatal(err)
			}
			k.use(0, used)
			d := &Driver{conn: k}
			if err := d.Disconnect(0); err != nil {
				t.Fatal(err)
			}
			select {
			case <-f.Failed():
			case <-said.offering:
				t.Fatal("it is tried again")
			}
			if !errors.Is(f.Err(), ErrGone) || said.with("serving has ended") != 1 || said.with("offering") != 0 {
				t.Errorf("%v, %q", f.Err(), said.all)
			}
			if kept, _ := f.Close(t.Context()); kept != used {
				t.Errorf("kept %v", kept)
			}
			if n := k.commands(cmdDisconnect); n != 1 {
				t.Errorf("%d commands to disconnect", n)
			}
			k.use(0, false)
			dev.Close(t)
		})
	}
}

// A device that was disconnected while somebody has it open is not one to go on
// with: its end is waited for, and then a new one is made.
func TestStartOnADisconnectedDevice(t *testing.T) {
	k, dev, f := served(t)
	k.use(0, true)
	d := &Driver{conn: k}
	if err := d.Disconnect(0); err != nil {
		t.Fatal(err)
	}
	kill(f)
	k.patience = 0
	if _, err := k.up(Config{Path: "nbd"}, dev); !errors.Is(err, ErrGone) {
		t.Fatalf("while it is in use: %v", err)
	}
	k.patience = time.Hour
	tries := k.commands(cmdReconfigure)
	k.tasks.Go(func() {
		k.until(func() bool { return k.count[cmdReconfigure] > tries })
		k.use(0, false) // whoever had it open closes it
	})
	g, err := k.up(Config{Path: "nbd"}, dev)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.io(0, read, 0, make([]byte, page)); err != nil || k.commands(cmdConnect) != 2 {
		t.Errorf("%d devices were made: %v", k.commands(cmdConnect), err)
	}
	kill(g)
	dev.Close(t)
}

// The number is another volume's meanwhile: it is not given our sockets, and not
// disconnected.
func TestNumberOfAnother(t *testing.T) {
	k, dev, f := served(t)
	d := &Driver{conn: k}
	if err := d.Disconnect(0); err != nil {
		t.Fatal(err)
	}
	g, err := k.up(Config{Path: "/dev/nbd0", Identifier: "dmps/c/v/2"}, dev)
	if err != nil {
		t.Fatal(err)
	}
	<-f.Failed()
	before := k.commands(cmdDisconnect)
	if kept, err := f.Close(t.Context()); kept || err != nil {
		t.Errorf("kept %v, %v", kept, err)
	}
	if k.commands(cmdDisconnect) != before || !k.devs[0].bound {
		t.Error("another volume's device was taken away")
	}
	if err := k.io(0, read, 0, make([]byte, page)); err != nil {
		t.Error(err)
	}
	kill(g)
	dev.Close(t)
}

// stolen is a claim after which the device is another volume's: the identifier is
// looked at again before the device is disconnected.
func TestStolenBeforeTheClaim(t *testing.T) {
	k, dev, f := served(t)
	f.on.claim = func(ctx context.Context, path string) (func() error, error) {
		k.write(0, "backend", "dmps/c/v/2")
		return k.claim(ctx, path)
	}
	if kept, err := f.Close(t.Context()); kept || err != nil {
		t.Errorf("kept %v, %v", kept, err)
	}
	if k.commands(cmdDisconnect) > 0 {
		t.Error("another volume's device was taken away")
	}
	dev.Close(t)
}

// A claim is given back when the device is another volume's by then.
func TestStolenWithAClaim(t *testing.T) {
	k, dev, f := served(t)
	given := false
	claim := f.on.claim
	f.on.claim = func(ctx context.Context, path string) (func() error, error) {
		release, err := claim(ctx, path)
		return func() error { given = true; return release() }, err
	}
	if err := f.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.write(0, "backend", "dmps/c/v/2")
	if kept, err := f.Close(t.Context()); kept || err != nil || !given {
		t.Errorf("kept %v, %v, given back %v", kept, err, given)
	}
	if k.commands(cmdDisconnect) > 0 {
		t.Error("another volume's device was taken away")
	}
	dev.Close(t)
}

// A driver that cannot just now is asked again, more and more seldom, and the log
// says it once.
func TestDriverThatCannot(t *testing.T) {
	k := newFakeKernel(t)
	dev := devicetest.New(t, devicetest.NewDisk(size), 64, false)
	said := &messages{}
	f, err := k.up(Config{Path: "nbd", Log: logTo(said)}, dev)
	if err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	k.fail[cmdReconfigure] = unix.ENOMEM
	_ = k.devs[0].socks[0].nc.Close()
	k.mu.Unlock()
	k.until(func() bool { return k.count[cmdReconfigure] >= 4 })
	if n := said.with("offering"); n != 1 {
		t.Errorf("said %d times: %q", n, said.all)
	}
	if f.Err() != nil {
		t.Error(f.Err())
	}
	k.mu.Lock()
	k.fail[cmdReconfigure] = nil
	k.mu.Unlock()
	if err := k.io(0, read, 0, make([]byte, page)); err != nil {
		t.Error(err)
	}
}

func TestPause(t *testing.T) {
	var all []time.Duration
	for last := time.Duration(0); len(all) < 8; {
		last = pause(last, 0)
		all = append(all, last)
	}
	if all[0] != renewFirst || all[3] != 8*renewFirst || all[7] != renewLast {
		t.Errorf("%v", all)
	}
	if p := pause(renewLast, time.Minute); p != renewFirst {
		t.Errorf("after a connection that was used, %v", p)
	}
}

// A device of a client that was killed before it set the queue is tuned by the
// next, unless it is in use: then it says so.
func TestTakeoverTunes(t *testing.T) {
	for name, used := range map[string]bool{"unused": false, "in use": true} {
		t.Run(name, func(t *testing.T) {
			k, dev, f := served(t)
			kill(f)
			k.write(0, "queue/nr_requests", "128")
			k.use(0, used)
			said := &messages{}
			g, err := k.up(Config{Path: "nbd", Log: logTo(said)}, dev)
			if err != nil {
				t.Fatal(err)
			}
			wrong, err := untuned(k.sys, 0)
			if err != nil || (len(wrong) > 0) != used || said.with("nr_requests 128") > 0 != used {
				t.Errorf("%v, %v, %q", wrong, err, said.all)
			}
			// Before somebody begins to use it, it is as it should be.
			k.use(0, false)
			if err := g.Tune(t.Context()); err != nil {
				t.Error(err)
			}
			if wrong, err := untuned(k.sys, 0); len(wrong) > 0 || err != nil {
				t.Errorf("%v, %v", wrong, err)
			}
			kill(g)
			dev.Close(t)
		})
	}
}

// The settings of a queue may be held until requests are answered: the device is
// served before another process asks for them.
func TestTakeoverServesBeforeItAsks(t *testing.T) {
	k, dev, f := served(t)
	kill(f)
	k.until(func() bool { return k.devs[0].socks[0].dead })
	setting := filepath.Join(k.sys, "block/nbd0/queue/scheduler")
	if err := errors.Join(os.Remove(setting), unix.Mkfifo(setting, 0o600)); err != nil {
		t.Fatal(err)
	}
	r := k.begin(0, read, 0, make([]byte, page))
	told := make(chan error, 1)
	go func() {
		err := <-r.res
		told <- errors.Join(err, os.WriteFile(setting, []byte("[none]\n"), 0))
	}()
	g, err := k.up(Config{Path: "nbd"}, dev)
	if err := errors.Join(err, <-told); err != nil {
		t.Fatal(err)
	}
	kill(g)
	dev.Close(t)
}

// What is as it should be is not written: that would wait for what is in flight.
func TestTakeoverWritesOnlyWhatDiffers(t *testing.T) {
	k, dev, f := served(t)
	kill(f)
	k.write(0, "queue/scheduler", "[none] mq-deadline") // as the kernel shows it
	k.write(0, "queue/nr_requests", "64")
	long := time.Unix(1e9, 0)
	files, err := filepath.Glob(filepath.Join(k.sys, "block/nbd0/queue/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if err := os.Chtimes(name, long, long); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.up(Config{Path: "nbd"}, dev); err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		i, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if written := !i.ModTime().Equal(long); written != (filepath.Base(name) == "nr_requests") {
			t.Errorf("%s: written %v", name, written)
		}
	}
}

// A client ends while a request waits in it for servers. The kernel must not be
// told that the request failed, though the volume's end fails it: a page would be
// lost to its process, which the next client could have brought.
func TestCloseTellsNoErrors(t *testing.T) {
	k, dev, f := served(t)
	k.use(0, true)
	dev.Pause(true)
	r := k.begin(0, read, 0, make([]byte, page))
	dev.WaitFor(func(s devicetest.State) bool { return s.Waiting == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	kept, err := f.Close(ctx)
	if !kept {
		t.Error("a device that is in use was taken away")
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a request was in flight, and Close says %v", err)
	}
	dev.SetFault(func(*client.Op) error { return client.ErrClosed })
	dev.Pause(false)
	f.served.Wait()
	k.until(func() bool { return k.devs[0].socks[0].dead })
	select {
	case err := <-r.res:
		t.Errorf("the kernel was told %v", err)
	default:
	}
	dev.Close(t)
}

// A device that could not be taken away is one that was kept: its volume is not given
// to others.
func TestDisconnectFails(t *testing.T) {
	k, dev, f := served(t)
	k.mu.Lock()
	k.fail[cmdDisconnect] = unix.ENOMEM
	k.mu.Unlock()
	if kept, err := f.Close(t.Context()); !kept || !errors.Is(err, unix.ENOMEM) {
		t.Errorf("kept %v, %v", kept, err)
	}
	if !k.devs[0].configured || k.devs[0].opens != 0 {
		t.Errorf("connected %v, open %d times", k.devs[0].configured, k.devs[0].opens)
	}
	dev.Close(t)
}

// A device whose queue cannot be set is not left behind.
func TestUntunedIsTakenAway(t *testing.T) {
	k := newFakeKernel(t)
	dev := devicetest.New(t, devicetest.NewDisk(size), 64, false)
	k.devs[0] = &fakeDev{} // without settings
	if _, err := k.up(Config{Path: "/dev/nbd0"}, dev); err == nil {
		t.Error("it is served")
	}
	if k.devs[0].configured || k.commands(cmdConnect) != 1 {
		t.Errorf("connected %v, after %d commands", k.devs[0].configured, k.commands(cmdConnect))
	}
	dev.Close(t)
}
