package ublk

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"dmps/client/devicetest"
)

// A device that somebody has stopped while others have it open is there until they
// close it: neither the end of its server nor the next one's start waits for that.
func TestStoppedWhileOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFakeKernel(t)
		d := devicetest.New(t, devicetest.NewDisk(64*pageSize), 64, false)
		s := up(t, k, Config{Device: d})
		k.users = make(chan struct{})
		if err := k.stop(s.ID()); err != nil {
			t.Fatal(err)
		}
		<-s.ended
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Stop(ctx); !errors.Is(err, context.Canceled) || !s.Stopping() {
			t.Errorf("%v, stopping %v", err, s.Stopping())
		}
		if _, err := start(t.Context(), k, Config{Device: d, Identity: "cluster/7", Log: quiet}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the next one: %v", err)
		}
		close(k.users)
		synctest.Wait()
		if len(k.devs) != 0 {
			t.Error("the device is left")
		}
	})
}

// Of two devices of a volume nobody can tell which holds what is out.
func TestTwoWait(t *testing.T) {
	k := newFakeKernel(t)
	for id := range uint32(2) {
		if _, err := k.add(devInfo{id: id, queues: 1, depth: 1, tag: Tag("cluster/7")}); err != nil {
			t.Fatal(err)
		}
		k.devs[int(id)].info.state = stateQuiesced
	}
	for _, id := range []int{AnyID, 0, 1} {
		_, err := start(t.Context(), k, Config{Device: devicetest.New(t, devicetest.NewDisk(64*pageSize), 64, false), Identity: "cluster/7", ID: id, Log: quiet})
		if !errors.Is(err, ErrMismatch) {
			t.Errorf("number %d: %v", id, err)
		}
	}
	if len(k.log) != 2 {
		t.Errorf("commands: %v", k.log)
	}
}

// The port of a queue is not closed while somebody may wake it.
func TestSettledWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l list
		l.wakers.Add(1)
		over := make(chan struct{})
		go func() {
			l.settled()
			close(over)
		}()
		synctest.Wait()
		select {
		case <-over:
			t.Error("somebody was about to wake it")
		default:
		}
		l.wakers.Add(-1)
		<-over
	})
}
