package server

import "dmps/raid"

// Stats is the state of a server.
type Stats struct {
	MemoryTotal uint64 // bytes of the arena, but for what was given back to the system
	MemoryUsed  uint64 // bytes that are lent
	Short       bool   // the host is short of memory
	WantedFree  uint64 // bytes of chunks that would help it; 0 unless Short
	Locked      bool   // the arena cannot be swapped out
	Chunks      int
	Volumes     int // that have chunks or sessions
	Sessions    int
	Reads       uint64 // requests since start
	Writes      uint64
	PagesIn     uint64 // slots written
	PagesOut    uint64 // slots read

	RebuildMemory uint64 // bytes of the buffers for rebuilds, beside MemoryTotal
	RowsRebuilt   uint64 // slots filled from other servers
	RebuildFailed uint64 // slots that could not be
	BytesPulled   uint64 // from other servers, headers included

	SlotsVerified uint64 // for scrubs
	SlotsBad      uint64 // verified, and found wrong
	BytesVerified uint64 // of the server's own memory, headers included
}

// Stats returns the server's state now.
func (s *Server) Stats() Stats {
	st := Stats{
		Locked:  s.arena.locked,
		Reads:   s.n.reads.Load(),
		Writes:  s.n.writes.Load(),
		PagesIn: s.n.pagesIn.Load(), PagesOut: s.n.pagesOut.Load(),
		RebuildMemory: uint64(len(s.pool.arena.mem)), RowsRebuilt: s.n.rebuilt.Load(),
		RebuildFailed: s.n.rebuildFailed.Load(), BytesPulled: s.n.pulled.Load(),
		SlotsVerified: s.n.verified.Load(), SlotsBad: s.n.verifyBad.Load(), BytesVerified: s.n.checked.Load(),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.MemoryTotal = uint64(s.c.Memory - s.withheldLocked())
	st.MemoryUsed = st.MemoryTotal - uint64(s.mu.free.left)
	st.Short, st.WantedFree = s.mu.short, s.mu.wanted
	st.Chunks = len(s.mu.chunks)
	with := make(map[raid.VolumeID]bool)
	for _, c := range s.mu.chunks {
		with[c.volume] = true
	}
	for id, v := range s.mu.volumes {
		if n := len(v.sessions); n > 0 {
			st.Sessions += n
			with[id] = true
		}
	}
	st.Volumes = len(with)
	return st
}
