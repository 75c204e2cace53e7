package loadgen

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Device is what load is put on. Its methods are called from many goroutines.
type Device interface {
	io.ReaderAt
	io.WriterAt
}

// Job is one kind of load.
type Job struct {
	Write  bool
	Random bool  // false: in order, wrapping around at the end
	Block  int64 // bytes of a request
	Depth  int   // requests in flight
	Span   int64 // bytes of the device that are used, from 0; a multiple of Block
	Time   time.Duration
	Seed   uint64
}

// String is short and says all but the time: "randread 4096 x32".
func (j Job) String() string {
	name := "seq"
	if j.Random {
		name = "rand"
	}
	if j.Write {
		name += "write"
	} else {
		name += "read"
	}
	return fmt.Sprintf("%s %d x%d", name, j.Block, j.Depth)
}

func (j Job) validate() error {
	switch {
	case j.Block <= 0 || j.Block%512 != 0:
		return fmt.Errorf("load %v: a block must be a multiple of 512 bytes", j)
	case j.Depth <= 0:
		return fmt.Errorf("load %v: the depth must be at least 1", j)
	case j.Span < j.Block || j.Span%j.Block != 0:
		return fmt.Errorf("load %v: the span of %d bytes must be a multiple of the block", j, j.Span)
	case j.Time <= 0:
		return fmt.Errorf("load %v: no time to run", j)
	}
	return nil
}

// Result is what a Job measured.
type Result struct {
	Requests uint64
	Bytes    int64
	Elapsed  time.Duration
	Latency  Histogram
}

// PerSecond is the rate of requests.
func (r *Result) PerSecond() float64 { return float64(r.Requests) / r.Elapsed.Seconds() }

// BytesPerSecond is the rate of bytes.
func (r *Result) BytesPerSecond() float64 { return float64(r.Bytes) / r.Elapsed.Seconds() }

// Run carries out a job. The first failed request ends it and is the error.
func Run(ctx context.Context, dev Device, j Job) (*Result, error) {
	if err := j.validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, j.Time)
	defer cancel()
	var (
		wg    sync.WaitGroup
		next  atomic.Int64 // block that is next in order
		parts = make([]Histogram, j.Depth)
		errs  = make([]error, j.Depth)
	)
	start := time.Now()
	for i := range j.Depth {
		wg.Go(func() {
			errs[i] = j.work(ctx, dev, uint64(i), &next, &parts[i])
			if errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	r := &Result{Elapsed: time.Since(start)}
	for i := range parts {
		r.Latency.Merge(&parts[i])
	}
	r.Requests = r.Latency.Count()
	r.Bytes = int64(r.Requests) * j.Block
	if err := errors.Join(errs...); err != nil {
		return r, fmt.Errorf("load %v: %w", j, err)
	}
	return r, nil
}

// work is one of Depth workers.
func (j Job) work(ctx context.Context, dev Device, worker uint64, next *atomic.Int64, h *Histogram) error {
	rng := rand.New(rand.NewPCG(j.Seed, worker))
	buf := make([]byte, j.Block)
	for i := 0; i+8 <= len(buf); i += 8 {
		binary.LittleEndian.PutUint64(buf[i:], rng.Uint64())
	}
	blocks := j.Span / j.Block
	for ctx.Err() == nil {
		var at int64
		if j.Random {
			at = rng.Int64N(blocks)
		} else {
			at = (next.Add(1) - 1) % blocks
		}
		if j.Write {
			stamp(buf, rng.Uint64())
		}
		start := time.Now()
		var err error
		if j.Write {
			_, err = dev.WriteAt(buf, at*j.Block)
		} else {
			_, err = dev.ReadAt(buf, at*j.Block)
		}
		if err != nil {
			return err
		}
		h.Add(time.Since(start))
	}
	return nil
}

// stamp makes every page of b another one than before.
func stamp(b []byte, v uint64) {
	for i := 0; i+8 <= len(b); i += PageSize {
		binary.LittleEndian.PutUint64(b[i:], v+uint64(i))
	}
}
