package nbd_test

import (
	"io"
	"testing"

	"dmps/client/devicetest"
	"dmps/client/nbd"
	"dmps/client/nbd/nbdtest"
)

// batch is 32 requests in one piece, and the number of bytes that answer them.
func batch(cmd uint16, n int) (requests []byte, answer int) {
	for i := range 32 {
		requests = nbdtest.Request(requests, cmd, 0, uint64(i), uint64(i*n), uint32(n))
		answer += 16
		if cmd == nbdtest.Write {
			requests = append(requests, fill(n, byte(i))...)
		} else {
			answer += n
		}
	}
	return requests, answer
}

// TestSteadyStateAllocatesNothing counts the allocations of the whole process
// per batch of requests: client, server and device.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		cmd  uint16
		n    int
	}{{"read 4 KiB", nbdtest.Read, 4096}, {"write 4 KiB", nbdtest.Write, 4096}, {"read 64 KiB", nbdtest.Read, 64 << 10},
		{"write 64 KiB", nbdtest.Write, 64 << 10}, {"write 100 B", nbdtest.Write, 100}} {
		t.Run(c.name, func(t *testing.T) {
			dev := devicetest.New(t, devicetest.NewDisk(4<<20), 2048, true)
			dev.Map(0, 1024)
			_, uri := serve(t, nbd.Config{Exports: exports(dev)})
			nc := negotiated(t, uri)
			requests, n := batch(c.cmd, c.n)
			answer := make([]byte, n)
			once := func() {
				if _, err := nc.Write(requests); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(nc, answer); err != nil {
					t.Fatal(err)
				}
			}
			for range 20 { // pools grow to their size
				once()
			}
			// The race detector and the runtime allocate now and then; a path
			// that did would show 32 a batch.
			if a := testing.AllocsPerRun(20, once); a >= 1 {
				t.Errorf("%v allocations per batch of 32", a)
			}
		})
	}
}

// BenchmarkBatch is 32 requests and their answers over a unix socket.
func BenchmarkBatch(b *testing.B) {
	for _, c := range []struct {
		name string
		cmd  uint16
		n    int
	}{{"read-4k", nbdtest.Read, 4096}, {"write-4k", nbdtest.Write, 4096}, {"read-128k", nbdtest.Read, 128 << 10}} {
		b.Run(c.name, func(b *testing.B) {
			dev := devicetest.New(b, devicetest.NewDisk(4<<20), 2048, true)
			dev.Map(0, 1024)
			_, uri := serve(b, nbd.Config{Exports: exports(dev)})
			nc := negotiated(b, uri)
			requests, n := batch(c.cmd, c.n)
			answer := make([]byte, n)
			b.SetBytes(int64(32 * c.n))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := nc.Write(requests); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(nc, answer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
