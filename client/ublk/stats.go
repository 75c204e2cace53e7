package ublk

import (
	"sync/atomic"

	"dmps/client"
)

// counters of one queue. Its thread writes them, anybody reads them.
type counters struct {
	reads, writes         atomic.Int64
	readBytes, writeBytes atomic.Int64
	trims, flushes        atomic.Int64
	errors                atomic.Int64 // requests that were answered with one
	waits                 atomic.Int64 // writes that found no buffers
	enters                atomic.Int64 // system calls
	wakes                 atomic.Int64 // of the thread, by other goroutines
}

func (c *counters) take(kind client.OpKind, n int64) {
	switch kind {
	case client.OpRead:
		c.reads.Add(1)
		c.readBytes.Add(n)
	case client.OpWrite:
		c.writes.Add(1)
		c.writeBytes.Add(n)
	case client.OpTrim, client.OpZero:
		c.trims.Add(1)
	case client.OpFlush:
		c.flushes.Add(1)
	}
}

// Stats of a device, summed over its queues since it was started or recovered.
type Stats struct {
	Reads, Writes         int64 // requests
	ReadBytes, WriteBytes int64
	Trims, Flushes        int64 // requests
	Errors                int64 // requests that were answered with an error
	Waits                 int64 // writes that had to wait for page buffers
	Enters                int64 // io_uring_enter(2) calls
	Wakes                 int64 // how often a queue's thread was woken by an answer
}

// Stats returns what was counted.
func (s *Server) Stats() Stats {
	var t Stats
	for _, q := range s.queues {
		c := &q.count
		t.Reads += c.reads.Load()
		t.Writes += c.writes.Load()
		t.ReadBytes += c.readBytes.Load()
		t.WriteBytes += c.writeBytes.Load()
		t.Trims += c.trims.Load()
		t.Flushes += c.flushes.Load()
		t.Errors += c.errors.Load()
		t.Waits += c.waits.Load()
		t.Enters += c.enters.Load()
		t.Wakes += c.wakes.Load()
	}
	return t
}
