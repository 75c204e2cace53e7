package ublk

import (
	"testing"
	"testing/synctest"

	"dmps/client/devicetest"
)

// bubble runs f in virtual time on a device of one queue: synctest.Wait returns when
// the queue has done what it can.
func bubble(t *testing.T, arena int, f func(t *testing.T, k *fakeKernel, d *devicetest.Device, s *Server)) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel(t)
		d := devicetest.New(t, devicetest.NewDisk(256*pageSize), arena, false)
		f(t, k, d, up(t, k, Config{Device: d, Queues: 1, Depth: 8}))
	})
}

// sent begins a write of n pages.
func sent(k *fakeKernel, s *Server, page, n int) *fakeReq {
	r := &fakeReq{desc: at(opWrite, page, n), data: fill(n*pageSize, uint64(page)), res: make(chan int32, 1)}
	k.begin(s.ID(), r)
	return r
}

// answer is the result of a request, or 0 when it has none yet.
func (r *fakeReq) answer() int32 {
	select {
	case res := <-r.res:
		return res
	default:
		return 0
	}
}

// A server that leaves answers what is in flight, and takes nothing more: that is
// the next one's.
func TestLeaveAnswersWhatIsInFlight(t *testing.T) {
	bubble(t, 64, func(t *testing.T, k *fakeKernel, d *devicetest.Device, s *Server) {
		d.Pause(true)
		before := sent(k, s, 1, 2)
		synctest.Wait()
		left := make(chan error, 1)
		go func() { left <- s.Leave(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-left:
			t.Errorf("it has left with a request in flight: %v", err)
			left <- err
		default:
		}
		after := sent(k, s, 5, 2)
		synctest.Wait()
		if n := d.State().Waiting; n != 1 {
			t.Errorf("the device has %d requests, not the one from before", n)
		}
		d.Pause(false)
		if err := <-left; err != nil {
			t.Error(err)
		}
		if got := before.answer(); got != 2*pageSize {
			t.Errorf("what was in flight is answered with %d", got)
		}
		if got := after.answer(); got != 0 {
			t.Errorf("what came later is answered with %d", got)
		}
		next := up(t, k, Config{Device: d, ID: s.ID()})
		synctest.Wait()
		if got := after.answer(); got != 2*pageSize {
			t.Errorf("the next server answers %d", got)
		}
		if err := next.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Buffers that come for a write when its server leaves go back, and the write is the
// next server's.
func TestLeaveGivesBuffersBack(t *testing.T) {
	bubble(t, 34, func(t *testing.T, k *fakeKernel, d *devicetest.Device, s *Server) {
		d.Pause(true)
		with, without := sent(k, s, 0, 20), sent(k, s, 20, 20)
		synctest.Wait()
		left := make(chan error, 1)
		go func() { left <- s.Leave(t.Context()) }()
		synctest.Wait()
		d.Pause(false)
		if err := <-left; err != nil {
			t.Error(err)
		}
		if a, b := with.answer(), without.answer(); a != 20*pageSize || b != 0 {
			t.Errorf("the write that the device had is answered with %d, the one without buffers with %d", a, b)
		}
		if n := d.State().FreePages; n != 34 {
			t.Errorf("%d of 34 buffers are free", n)
		}
		next := up(t, k, Config{Device: d, ID: s.ID()})
		if got := <-without.res; got != 20*pageSize {
			t.Errorf("the next server answers %d", got)
		}
		if err := next.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Writes get their buffers in the order in which they came: a small one does not
// overtake a large one, which might wait for ever.
func TestWritesWaitInOrder(t *testing.T) {
	bubble(t, 34, func(t *testing.T, k *fakeKernel, d *devicetest.Device, s *Server) {
		d.Pause(true)
		reqs := []*fakeReq{sent(k, s, 0, 20), sent(k, s, 20, 20)}
		synctest.Wait()
		reqs = append(reqs, sent(k, s, 40, 5))
		synctest.Wait()
		if st := d.State(); st.Waiting != 1 || st.FreePages != 14 {
			t.Errorf("%d writes are with the device and %d buffers free, although one waits for more", st.Waiting, st.FreePages)
		}
		d.Pause(false)
		for i, r := range reqs {
			if got := <-r.res; got != int32(len(r.data)) {
				t.Errorf("write %d: %d", i, got)
			}
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A device that never came to be served waits for nobody.
func TestNobodyWaitsForTheDead(t *testing.T) {
	k := newFakeKernel(t)
	if _, err := k.add(devInfo{id: 0, queues: 1, depth: 1, tag: Tag("x")}); err != nil {
		t.Fatal(err)
	}
	if path, found, err := waiting(k, "x"); found || err != nil {
		t.Errorf("%q, %v", path, err)
	}
}
