package client

import (
	"context"
	"errors"

	"dmps/internal/pace"
	"dmps/raid"
	"dmps/transport"
)

// Rows that are not in use hold nothing, but a recovery reads their headers too, and pages
// of dead notes. So a scrub reads the headers of free rows, and has those rows erased that
// could keep a volume from opening (raid.Hinders). These are no bad slots: nothing is
// stored there, and a client that dies in the middle of a one-sided transfer leaves a
// damaged header.

// walkUnused looks at the headers of the free rows of g, member by member.
func (s *scrub) walkUnused(ctx context.Context, g raid.GroupID, limit *pace.Pace) error {
	v := s.v
	var buf []byte
	select {
	case buf = <-v.recoverBufs:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { v.recoverBufs <- buf }()
	for c := range raid.Col(v.geo.Members()) {
		size := v.layout.HeaderBytes(c)
		for from := uint32(0); from < v.layout.ChunkSlots; {
			n := min(uint32(len(buf)/size), v.layout.ChunkSlots-from)
			headers := buf[:int(n)*size]
			if err := s.unusedOf(ctx, g, c, raid.Index(from), headers); err != nil {
				return err
			}
			if _, err := limit.Take(ctx, int64(len(headers))); err != nil {
				return err
			}
			from += n
		}
	}
	return nil
}

// unusedOf reads headers of column c from row from on, and judges those of rows that
// are free all the time meanwhile: these have no writer. The record of the view that is
// among them is written anew when it is lost. Of a member without a session
// the rows in use were skipped already.
func (s *scrub) unusedOf(ctx context.Context, g raid.GroupID, c raid.Col, from raid.Index, headers []byte) error {
	v := s.v
	size := v.layout.HeaderBytes(c)
	n := len(headers) / size
	p := &scrubPart{col: c}
	free := make([]bool, n)
	a := v.lock()
	m := v.member(g, c)
	p.ref, p.peer, p.conn = m.ref, m.peer, v.sessionLocked(m)
	chunk := m.chunk
	some := 0
	for k := range free {
		if i := from + raid.Index(k); i >= raid.ViewRows && v.mu.log.Free(g, i) {
			free[k] = true
			some++
		}
	}
	v.unlock(a)
	if some == 0 && from >= raid.ViewRows || p.conn == nil {
		return nil
	}
	var err error
	for try := 0; try < scrubTries && (try == 0 || s.renew(ctx, g, p)); try++ {
		if err = s.readUnused(ctx, p.peer, chunk, from, n, headers); !errors.Is(err, transport.ErrClosed) {
			break
		}
	}
	a = v.lock()
	defer v.unlock(a)
	switch {
	case v.mu.closed != nil:
		return v.mu.closed
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		s.skippedLocked(p.peer, some, err.Error())
		return nil
	}
	s.status.Bytes += uint64(len(headers))
	s.serverLocked(p.peer.id).Bytes += uint64(len(headers))
	for k := range free {
		i := from + raid.Index(k)
		if i < raid.ViewRows && v.mu.log.ViewLost(g, c, i, headers[k*size:][:size]) {
			v.log.Warn("a member has lost the record of who belongs to its group: it is written anew", "group", g, "column", c, "server", p.peer.id)
		}
		if free[k] && raid.Hinders(headers[k*size:][:size], v.site(g, i)) && v.mu.log.DoomFree(g, i) {
			v.log.Info("a slot that is not in use could be taken for something: its row is erased", "group", g, "slot", i, "column", c, "server", p.peer.id)
		}
	}
	v.eraseSoonLocked()
	return nil
}

// readUnused fetches n headers of a member, beside whatever else goes to it.
func (s *scrub) readUnused(ctx context.Context, p *peer, chunk raid.ChunkID, from raid.Index, n int, dst []byte) error {
	v := s.v
	a := v.lock()
	if v.mu.closed != nil {
		defer v.unlock(a)
		return v.mu.closed
	}
	v.mu.ops++ // the watch looks after it, and Close waits
	v.unlock(a)
	x := v.xfers.get()
	x.wait = make(chan error, 1)
	x.req.Op = opReadHeaders
	x.req.Chunk, x.req.Count = uint64(chunk), n
	x.add(from, dst, nil)
	p.send(x)
	p.kick()
	v.drainDead()
	err := v.outcome(ctx, x)
	v.xfers.put(x)
	a = v.lock()
	v.opGoneLocked()
	v.unlock(a)
	return err
}
