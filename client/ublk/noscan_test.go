package ublk

import (
	"errors"
	"runtime"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"dmps/client/devicetest"
)

// A device is there although its volume does not answer: nothing is read from it
// while it starts. A client that were killed meanwhile could not end.
func TestStartWaitsForNoPage(t *testing.T) {
	for name, more := range map[string]uint64{"with the feature": featNoPartScan, "without": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newFakeKernel(t)
				k.have |= more
				d := devicetest.New(t, devicetest.NewDisk(64*pageSize), 64, false)
				d.Pause(true)
				started := make(chan *Server, 1)
				go func() {
					s, err := start(t.Context(), k, Config{Device: d, Identity: "cluster/7", Queues: 3, Log: quiet})
					if err != nil {
						t.Error(err)
					}
					started <- s
				}()
				synctest.Wait()
				if n := d.State().Waiting; n != 0 || len(started) == 0 {
					t.Errorf("%d requests wait for the volume before the device is there", n)
				}
				d.Pause(false)
				s := <-started
				if got := k.devs[s.ID()].info.flags; got != wanted|more {
					t.Errorf("the device has flags %#x, not %#x", got, wanted|more)
				}
				if err := s.Leave(t.Context()); err != nil {
					t.Fatal(err)
				}
				next := up(t, k, Config{Device: d})
				if !next.Recovered() {
					t.Error("it is not gone on with")
				}
				if err := next.Stop(t.Context()); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// A capability is out of effect for the time of the call, on that thread, whatever
// the call ends with.
func TestWithout(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	effective := func() uint64 {
		h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var d [2]unix.CapUserData
		if err := unix.Capget(&h, &d[0]); err != nil {
			t.Fatal(err)
		}
		return uint64(d[1].Effective)<<32 | uint64(d[0].Effective)
	}
	before, broken := effective(), errors.New("broken")
	for _, c := range []uint{unix.CAP_CHOWN, unix.CAP_SYS_ADMIN, unix.CAP_AUDIT_READ} {
		for _, want := range []error{nil, broken} {
			err := without(c, func() error {
				if got := effective(); got != before&^(1<<c) {
					t.Errorf("capabilities %#x without %d are %#x", before, c, got)
				}
				return want
			})
			if !errors.Is(err, want) {
				t.Errorf("%v, not %v", err, want)
			}
			if got := effective(); got != before {
				t.Errorf("afterwards they are %#x, not %#x", got, before)
			}
		}
	}
}
