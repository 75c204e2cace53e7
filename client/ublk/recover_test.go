package ublk

import (
	"bytes"
	"context"
	"dmps/client/devicetest"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestKill kills the server with requests in flight, in the device and in the
// kernel. The next one answers all of them.
func TestKill(t *testing.T) {
	for _, queues := range []int{1, 3} {
		k := newFakeKernel(t)
		kept := devicetest.NewDisk(256 * pageSize)
		first := devicetest.New(t, kept, 128, false)
		k.fail["unthrottled"] = errors.New("read only") // no reason not to serve
		s := up(t, k, Config{Device: first, Queues: queues, Depth: 4})
		want := fill(256*pageSize, 4)
		for p := range 128 {
			if got := k.io(s.ID(), at(opWrite, p, 1), want[p*pageSize:][:pageSize]); got != pageSize {
				t.Fatalf("result %d", got)
			}
		}
		first.Pause(true)
		var reqs []*fakeReq
		for i := range 128 { // far more than there are tags
			r := &fakeReq{desc: at(opWrite, 128+i, 1), data: want[(128+i)*pageSize:][:pageSize], res: make(chan int32, 1)}
			if i%2 == 1 {
				r = &fakeReq{desc: at(opRead, i, 1), data: make([]byte, pageSize), res: make(chan int32, 1)}
			}
			reqs = append(reqs, r)
			k.begin(s.ID(), r)
		}
		first.WaitFor(func(s devicetest.State) bool { return s.Waiting >= queues*4 })
		k.kill(s.ID())
		<-s.ended
		first.Close(t)
		if k.devs[s.ID()].info.state != stateQuiesced {
			t.Fatal("the device is not quiesced")
		}

		second := devicetest.New(t, kept, 128, false)
		s2 := up(t, k, Config{Device: second, ID: AnyID, Queues: 2, Depth: 99, MaxIO: 1 << 20})
		if !s2.Recovered() || s2.ID() != s.ID() || len(s2.queues) != queues || len(s2.queues[0].calls) != 4 {
			t.Errorf("recovered %v, device %d, %d queues", s2.Recovered(), s2.ID(), len(s2.queues))
		}
		// It would wait for what is in flight, which waits for this server.
		if n := len(slices.DeleteFunc(slices.Clone(k.log), func(s string) bool { return s != "unthrottled" })); n != 1 {
			t.Errorf("the queue was set %d times, not only when the device was new", n)
		}
		for i, r := range reqs {
			if got := <-r.res; got != pageSize {
				t.Errorf("request %d: result %d", i, got)
			}
			if i%2 == 1 && !bytes.Equal(r.data, want[i*pageSize:][:pageSize]) {
				t.Errorf("request %d: wrong data", i)
			}
		}
		for i := 0; i < 128; i += 2 {
			got := make([]byte, pageSize)
			if k.io(s.ID(), at(opRead, 128+i, 1), got) != pageSize || !bytes.Equal(got, want[(128+i)*pageSize:][:pageSize]) {
				t.Errorf("page %d is not what was written", 128+i)
			}
		}
		if err := s2.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(k.log, "recovered") {
			t.Error(k.log)
		}
	}
}

// TestLeave leaves a device with requests that do not end before the client
// does: none of them is answered with an error, the next client has them all.
func TestLeave(t *testing.T) {
	k := newFakeKernel(t)
	kept := devicetest.NewDisk(256 * pageSize)
	first := devicetest.New(t, kept, 34, false)
	s := up(t, k, Config{Device: first, Queues: 1, Depth: 8})
	first.Pause(true)
	var reqs []*fakeReq
	for i := range 12 { // the second 32-page write waits for buffers, the rest behind it
		r := &fakeReq{desc: at(opWrite, i*20, 20), data: fill(20*pageSize, uint64(i)), res: make(chan int32, 1)}
		reqs = append(reqs, r)
		k.begin(s.ID(), r)
	}
	first.WaitFor(func(s devicetest.State) bool { return s.Waiting >= 1 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Leave(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("left with a request in flight: %v", err)
	}
	first.Close(t) // ends it with ErrClosed
	<-s.ended
	k.kill(s.ID()) // the process ends, which closes the device
	for i, r := range reqs {
		select {
		case res := <-r.res:
			t.Errorf("request %d was answered with %d", i, res)
		default:
		}
	}
	s2 := up(t, k, Config{Device: devicetest.New(t, kept, 64, false), ID: s.ID()})
	for i, r := range reqs {
		if got := <-r.res; got != 20*pageSize {
			t.Errorf("request %d: result %d", i, got)
		}
		got := make([]byte, 20*pageSize)
		if k.io(s2.ID(), at(opRead, i*20, 20), got); !bytes.Equal(got, r.data) {
			t.Errorf("request %d: wrong data", i)
		}
	}
	if err := s2.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestWhose never takes a device for another volume's.
func TestWhose(t *testing.T) {
	leftBy := func(identity string, pages int) (*fakeKernel, int) {
		k := newFakeKernel(t)
		s := up(t, k, Config{Device: devicetest.New(t, devicetest.NewDisk(int64(pages)*pageSize), 64, false), Identity: identity, ID: 2})
		if err := s.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		return k, s.ID()
	}
	for _, c := range []struct {
		name     string
		identity string
		pages    int
		id       int
		break_   func(*fakeDev)
		want     error
	}{
		{"another volume there", "b", 64, 2, nil, ErrTaken},
		{"another number", "a", 64, 3, nil, ErrElsewhere},
		{"another size", "a", 65, 2, nil, ErrMismatch},
		{"device of another program", "a", 64, 2, func(d *fakeDev) { d.info.tag = 0 }, ErrTaken},
		{"no reissue", "a", 64, 2, func(d *fakeDev) { d.info.flags &^= featRecoveryReissue }, ErrMismatch},
		{"one that fails", "a", 64, 2, func(d *fakeDev) { d.info.state = stateFailIO }, ErrMismatch},
		{"one that can fail", "a", 64, 2, func(d *fakeDev) { d.info.flags |= featRecoveryFailIO }, ErrMismatch},
	} {
		k, id := leftBy("a", 64)
		if c.break_ != nil {
			c.break_(k.devs[id])
		}
		_, err := start(t.Context(), k, Config{Device: devicetest.New(t, devicetest.NewDisk(int64(c.pages)*pageSize), 64, false), Identity: c.identity, ID: c.id, Log: quiet})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if len(k.devs) != 1 || k.devs[id].opened {
			t.Errorf("%s: the device that waits was touched", c.name)
		}
	}

	// Without a number another volume gets another device.
	k, id := leftBy("a", 64)
	s := up(t, k, Config{Device: devicetest.New(t, devicetest.NewDisk(64*pageSize), 64, false), Identity: "b", ID: AnyID})
	if s.ID() == id || s.Recovered() {
		t.Errorf("device %d, recovered %v", s.ID(), s.Recovered())
	}
	if err := s.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestDeadLeftover removes what a client left that ended before the device was
// started.
func TestDeadLeftover(t *testing.T) {
	k := newFakeKernel(t)
	if _, err := k.add(devInfo{id: 0, queues: 1, depth: 1, tag: Tag("cluster/7")}); err != nil {
		t.Fatal(err)
	}
	s := up(t, k, Config{Device: devicetest.New(t, devicetest.NewDisk(64*pageSize), 64, false)})
	if s.Recovered() || s.ID() != 0 || k.devs[0].info.flags != wanted {
		t.Errorf("device %d, recovered %v", s.ID(), s.Recovered())
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestBegunRecovery goes on where a client was killed between beginning a
// recovery and the first fetch.
func TestBegunRecovery(t *testing.T) {
	k := newFakeKernel(t)
	d := devicetest.New(t, devicetest.NewDisk(64*pageSize), 64, false)
	s := up(t, k, Config{Device: d})
	if err := s.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := k.startRecovery(s.ID()); err != nil {
		t.Fatal(err)
	}
	s2 := up(t, k, Config{Device: d})
	if !s2.Recovered() {
		t.Error("not recovered")
	}
	if err := s2.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestUntilQuiesced waits for the kernel to notice the end of the old server,
// as long as it may take, and not for ever for one that lives.
func TestUntilQuiesced(t *testing.T) {
	for _, c := range []struct {
		name   string
		alive  bool
		after  time.Duration // until the device changes
		to     devState
		gone   bool // it is deleted then
		want   error
		device bool // one comes back
	}{
		{"killed, all tags in flight", false, 40 * time.Second, stateQuiesced, false, nil, true},
		{"ending", true, 3 * time.Second, stateQuiesced, false, nil, true},
		{"alive", true, time.Hour, stateQuiesced, false, ErrServed, false},
		{"never noticed", false, time.Hour, stateQuiesced, false, ErrServed, false},
		{"stopped meanwhile", true, time.Second, stateDead, false, nil, false},
		{"deleted meanwhile", true, time.Second, stateDead, true, nil, false},
		{"failing", false, time.Second, stateFailIO, false, ErrMismatch, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			k := newFakeKernel(t)
			i, err := k.add(devInfo{id: 0, queues: 1, depth: 1, tag: Tag("a"), pid: 77})
			if err != nil {
				t.Fatal(err)
			}
			k.pids[77] = c.alive
			k.devs[0].info.state = stateLive
			timer := time.AfterFunc(c.after, func() {
				k.mu.Lock()
				defer k.mu.Unlock()
				k.devs[0].info.state = c.to
				if c.gone {
					delete(k.devs, 0)
				}
			})
			defer timer.Stop()
			cfg := &Config{Identity: "a", ID: AnyID, Log: quiet}
			got, err := find(t.Context(), k, cfg)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || (got != nil) != c.device {
				t.Errorf("%s: %v, %v", c.name, got, err)
			}
			if got != nil && (got.id != i.id || got.state != stateQuiesced) {
				t.Errorf("%s: %+v", c.name, got)
			}
		})
	}
}
