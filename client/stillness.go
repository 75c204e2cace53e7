package client

import (
	"context"
	"sync"
	"time"
)

// stillEvery is how often the time is looked at in which this process ran.
const stillEvery = 5 * time.Millisecond

// stillness measures how long this process did not run: it was stopped, or
// starved. A time limit that passed meanwhile says nothing about a server.
type stillness struct {
	now func() int64 // monotonic nanoseconds

	mu    sync.Mutex
	last  int64 // when it was looked at last
	stood int64 // nanoseconds so far
}

func newStillness(now func() int64) *stillness { return &stillness{now: now, last: now()} }

// look is the time, and how much of it this process has not run since the
// measurement began, both in nanoseconds. It counts only while keep runs. A gap
// that has just ended is in it, whether or not keep has had its turn since.
func (s *stillness) look() (now, stood int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now = s.now()
	if gap := now - s.last; gap > int64(stillEvery+stalledSelf) {
		s.stood += gap
	}
	s.last = now
	return now, s.stood
}

// keep looks until ctx ends.
func (s *stillness) keep(ctx context.Context) {
	tick := time.NewTicker(stillEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.look()
		}
	}
}

// trial is what a server has to answer within when a volume is opened:
// Config.DialTimeout of time in which this process ran, in one attempt or more.
type trial struct {
	still *stillness
	left  time.Duration // of the time to answer
	least time.Duration // with less left, or fewer stood still, an attempt stands as it is

	began, stood int64 // the present attempt
}

func newTrial(s *stillness, limit time.Duration) *trial {
	return &trial{still: s, left: limit, least: limit / stoodStill}
}

func (t *trial) begin() { t.began, t.stood = t.still.look() }

// again reports whether an attempt that failed is to be made again with what is
// left of the time: this process did not run for a good part of it, so its
// failure says nothing, and the server has not had its time.
func (t *trial) again() bool {
	now, stood := t.still.look()
	gap := time.Duration(stood - t.stood)
	t.left -= time.Duration(now-t.began) - gap
	return gap >= t.least && t.left >= t.least
}
