package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
)

// A host that runs short of memory gets back some of what this server lends.
// The server only asks: meta has chunks moved away, while every page stays where
// it can be read, and what meta then tells it to drop goes back to the system
// instead of to the free memory. It never drops a page by itself.
//
// The state flaps neither way: a shortage begins after several bad looks in a
// row, and ends after many good ones, against marks that are further away.

const (
	lookEvery     = time.Second
	looksShort    = 3  // bad looks that begin a shortage
	looksRelieved = 30 // good looks that end it
	// pressureShare is the part of what is lent that is asked for when the host
	// stalls for memory although it has some available.
	pressureShare = 16
)

// HostMemory is what a look at the host shows.
type HostMemory struct {
	Total, Available uint64  // bytes
	Some, Full       float64 // percent of the last 10 s in which some, or all, tasks waited for memory; 0: not known
}

// Shortage says when the host counts as short of memory.
type Shortage struct {
	// Low is the least memory that is to be available, in bytes; 0: LowPercent.
	Low uint64
	// LowPercent is the same in percent of the host's memory. 0, with Low 0: no
	// limit.
	LowPercent float64
	// Pressure is the percentage of time in which some tasks wait for memory, or
	// twice that in which all do, that is too much; 0: no limit.
	Pressure float64
	// Look gives the host's memory; nil: that of this machine.
	Look func() (HostMemory, error)
}

func (c *Shortage) off() bool { return c.Low == 0 && c.LowPercent == 0 && c.Pressure == 0 }

func (c *Shortage) validate() error {
	if c.LowPercent < 0 || c.LowPercent > 90 {
		return fmt.Errorf("low memory at %g percent: must be 0 to 90", c.LowPercent)
	}
	if c.Pressure < 0 || c.Pressure > 100 {
		return fmt.Errorf("memory pressure of %g percent: must be 0 to 100", c.Pressure)
	}
	return nil
}

// low is the low mark for this host, in bytes.
func (c *Shortage) low(m HostMemory) uint64 {
	if c.Low != 0 {
		return c.Low
	}
	return uint64(float64(m.Total) * c.LowPercent / 100)
}

// gauge turns looks into a state. It is pure.
type gauge struct {
	c           Shortage
	short       bool
	bad, good   int
	wantedBytes uint64
}

// look takes what the host shows and what is lent, in bytes.
func (g *gauge) look(m HostMemory, lent uint64) {
	low := g.c.low(m)
	high := low + low/2
	pressed := max(m.Some, 2*m.Full)
	g.wantedBytes = 0
	if m.Available < high {
		g.wantedBytes = high - m.Available
	} else if g.c.Pressure > 0 && pressed >= g.c.Pressure/2 {
		g.wantedBytes = lent / pressureShare
	}
	if g.short {
		if m.Available >= high && (g.c.Pressure == 0 || pressed < g.c.Pressure/2) {
			g.good++
		} else {
			g.good = 0
		}
		if g.good >= looksRelieved {
			g.short, g.bad, g.good = false, 0, 0
		}
		return
	}
	if m.Available < low || g.c.Pressure > 0 && pressed >= g.c.Pressure {
		g.bad++
	} else {
		g.bad = 0
	}
	if g.bad >= looksShort {
		g.short, g.bad, g.good = true, 0, 0
	}
}

// watchMemory looks at the host until ctx ends. Without limits it does so only while
// memory is withheld: what could not be had again is tried again (mappings.go).
func (s *Server) watchMemory(ctx context.Context) {
	g := gauge{c: s.c.Shortage}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	blind := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.c.Shortage.off() && !s.withholds() {
			continue
		}
		m, err := s.c.Shortage.Look()
		if err != nil {
			if !blind {
				s.c.Log.Warn("the host's memory cannot be looked at: a shortage would not be noticed, and what is withheld is not lent again", "err", err)
			}
			blind = true
			continue
		}
		blind = false
		s.lookedAt(&g, m)
	}
}

// lookedAt draws the conclusions from one look.
func (s *Server) lookedAt(g *gauge, m HostMemory) {
	was := g.short
	g.look(m, s.Stats().MemoryUsed)
	s.mu.Lock()
	s.mu.short, s.mu.wanted = g.short, 0
	if g.short {
		s.mu.wanted = g.wantedBytes
	}
	s.mu.Unlock()
	switch {
	case g.short && !was:
		s.c.Log.Warn("the host is short of memory: chunks are to be moved away", "available", m.Available, "wanted", g.wantedBytes, "some", m.Some, "full", m.Full)
	case was && !g.short:
		s.c.Log.Info("the host is not short of memory any more", "available", m.Available)
	}
	if !g.short {
		s.lendAgain(m.Available, g.c.low(m))
	}
}

// lendAgain takes back what was given to the system, one extent at a look, if
// that leaves the host well above its mark.
func (s *Server) lendAgain(available, low uint64) {
	s.mu.Lock()
	if len(s.mu.withheld) == 0 || available < 2*low+uint64(s.mu.withheld[0].size) {
		s.mu.Unlock()
		return
	}
	x := s.mu.withheld[0] // of this goroutine alone; the sweeper appends
	s.mu.Unlock()
	err := s.arena.populate(x) // takes a second a GiB, and may wait for memory: without the lock
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if !s.mu.stuck {
			s.c.Log.Error("memory that was given back cannot be had again: it is not lent", "bytes", x.size, "err", err)
		}
		s.mu.stuck = true
		return
	}
	s.mu.stuck = false
	s.mu.withheld = s.mu.withheld[1:]
	s.mu.free.give(x)
	s.c.Log.Info("memory that was given back is lent again", "bytes", x.size)
}

// withholds reports whether memory is neither lent nor free.
func (s *Server) withholds() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mu.withheld) > 0
}

func (s *Server) withheldLocked() (n int64) {
	for _, x := range s.mu.withheld {
		n += x.size
	}
	return n
}

// lookAtHost reads the memory of the machine whose /proc is given. A kernel without
// pressure information is no error.
func lookAtHost(proc string) (HostMemory, error) {
	fail := func(err error) (HostMemory, error) {
		return HostMemory{}, fmt.Errorf("looking at the host's memory: %w", err)
	}
	dir, err := procfs.NewFS(proc)
	if err != nil {
		return fail(err)
	}
	info, err := dir.Meminfo()
	if err != nil {
		return fail(err)
	}
	if info.MemTotalBytes == nil || info.MemAvailableBytes == nil {
		return fail(errors.New("/proc/meminfo does not say how much is available"))
	}
	m := HostMemory{Total: *info.MemTotalBytes, Available: *info.MemAvailableBytes}
	pressure, err := dir.PSIStatsForResource("memory")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EOPNOTSUPP) {
		return m, nil // not built in, or turned off
	}
	if err != nil {
		return fail(err)
	}
	if pressure.Some == nil {
		return fail(errors.New("/proc/pressure/memory does not say how long some tasks waited"))
	}
	m.Some = pressure.Some.Avg10
	if pressure.Full != nil {
		m.Full = pressure.Full.Avg10
	}
	return m, nil
}
