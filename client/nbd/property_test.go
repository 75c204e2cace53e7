package nbd_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"dmps/client/devicetest"
	"dmps/client/nbd"
	"dmps/client/nbd/nbdtest"
)

// TestOracle runs random byte-granular commands over several connections at
// once against plain memory. Each connection has its own region, whose borders
// lie inside of pages, and many commands in flight that do not overlap.
func TestOracle(t *testing.T) {
	const (
		size   = 3<<19 + 4096
		conns  = 3
		region = size/conns - 1 // not a multiple of anything
	)
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		rounds := rapid.IntRange(1, 5).Draw(rt, "rounds")
		arena := rapid.SampledFrom([]int{160, 300, 2048}).Draw(rt, "arena")
		o := nbdtest.Options{Simple: rapid.Bool().Draw(rt, "simple")}

		dev := devicetest.New(t, devicetest.NewDisk(size), arena, false)
		l, err := nbd.Listen("127.0.0.1:0")
		if err != nil {
			rt.Fatal(err)
		}
		s, err := nbd.NewServer(nbd.Config{Exports: exports(dev), Depth: rapid.SampledFrom([]int{1, 3, 1024}).Draw(rt, "depth")})
		if err != nil {
			rt.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()

		var wg sync.WaitGroup
		failures := make(chan error, conns)
		for i := range conns {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, uint64(i)))
				failures <- exercise(nbd.URI(l.Addr(), ""), o, int64(i)*region, region, rounds, rnd)
			})
		}
		wg.Wait()
		close(failures)
		for err := range failures {
			if err != nil {
				rt.Error(err)
			}
		}
		if err := s.Close(); err != nil {
			rt.Error(err)
		}
		<-served
	})
}

// exercise compares region [base, base+n) of an export with a slice.
func exercise(uri string, o nbdtest.Options, base, n int64, rounds int, rnd *rand.Rand) (err error) {
	c, err := nbdtest.Connect(uri, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	oracle := make([]byte, n)
	type call struct {
		cmd      uint16
		off, end int64
		data     []byte
		reply    <-chan nbdtest.Reply
	}
	for round := range rounds {
		var calls []call
		for off := rnd.Int64N(9000); off < n; off += rnd.Int64N(30000) {
			k := call{off: off, cmd: []uint16{nbdtest.Read, nbdtest.Write, nbdtest.Write, nbdtest.Trim, nbdtest.WriteZeroes, nbdtest.Cache, nbdtest.Flush}[rnd.IntN(7)]}
			longest := int64(20000)
			if rnd.IntN(20) == 0 {
				longest = 600_000
			}
			k.end = min(n, off+rnd.Int64N(longest))
			off = k.end
			at, length := uint64(base+k.off), uint32(k.end-k.off)
			switch k.cmd {
			case nbdtest.Write:
				k.data = fill(int(length), byte(rnd.Uint32()))
				copy(oracle[k.off:], k.data)
			case nbdtest.Trim, nbdtest.WriteZeroes:
				clear(oracle[k.off:k.end])
			case nbdtest.Flush:
				at, length = 0, 0
			}
			k.reply = c.Go(k.cmd, 0, at, length, k.data)
			calls = append(calls, k)
		}
		for _, k := range calls {
			r := <-k.reply
			if r.Err != nil || r.Errno != 0 {
				return fmt.Errorf("round %d, command %d at %d of %d bytes: errno %d, %w", round, k.cmd, k.off, k.end-k.off, r.Errno, r.Err)
			}
			if k.cmd == nbdtest.Read && !bytes.Equal(r.Data, oracle[k.off:k.end]) {
				return fmt.Errorf("round %d: %d bytes at %d differ", round, k.end-k.off, k.off)
			}
		}
	}
	r := c.Do(nbdtest.Read, 0, uint64(base), uint32(n), nil)
	if r.Err != nil || r.Errno != 0 || !bytes.Equal(r.Data, oracle) {
		return fmt.Errorf("at the end: errno %d, %w, same %v", r.Errno, r.Err, bytes.Equal(r.Data, oracle))
	}
	return nil
}
