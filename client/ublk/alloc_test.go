package ublk

import (
	"dmps/client/devicetest"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSteadyStateAllocatesNothing counts the allocations of everything from the
// driver to the device and back, per 32 requests.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	for _, c := range []struct {
		name  string
		op    uint32
		pages int
	}{{"read a page", opRead, 1}, {"write a page", opWrite, 1}, {"read 128 KiB", opRead, 32}, {"write 128 KiB", opWrite, 32}, {"discard", opDiscard, 8}, {"flush", opFlush, 0}} {
		t.Run(c.name, func(t *testing.T) {
			k := newFakeKernel(t)
			d := devicetest.New(t, devicetest.NewDisk(1024*pageSize), 2048, true)
			d.Map(0, int(d.Size()/pageSize))
			s := up(t, k, Config{Device: d, Queues: 1, Depth: 64})
			var reqs []*fakeReq
			for i := range 32 {
				reqs = append(reqs, &fakeReq{desc: at(c.op, i*32, c.pages), data: make([]byte, c.pages*pageSize), res: make(chan int32, 1)})
			}
			once := func() {
				for _, r := range reqs {
					k.begin(s.ID(), r)
				}
				for _, r := range reqs {
					if res := <-r.res; res < 0 {
						t.Error(unix.Errno(-res))
					}
				}
			}
			for range 10 {
				once()
			}
			// The runtime allocates now and then; a path that did would show 32.
			if a := testing.AllocsPerRun(20, once); a >= 1 {
				t.Errorf("%v allocations per 32 requests", a)
			}
			if err := s.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}
