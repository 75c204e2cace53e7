package client

import (
	"context"
	"errors"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// compare looks at all headers of a member that the recovery did not see, by a
// session in which nothing else uses it yet. The recovery took it that such a
// member has what was sent to it. Where it does not, as after a client that
// died in the middle of a batch, or because it is still being rebuilt, the row
// is marked as missed, and filled.
//
// Headers there that the map knows nothing of are erased: they belong to rows
// that are dead, or that were never answered and dropped (raid.Log.Leftover). So are
// erased slots that say that more is dead than is by the map. Afterwards the member
// holds what the map says, and nothing else. A pending member counts as empty,
// whatever an earlier client gave it, and all of it is erased.
func (v *Volume) compare(ctx context.Context, conn transport.Conn, m *memberRef) error {
	if v.mu.log == nil {
		return nil
	}
	// The watch does not know this session yet.
	defer context.AfterFunc(ctx, func() { conn.Abort(ErrClosed) })()
	var buf []byte
	select {
	case buf = <-v.recoverBufs:
	case <-ctx.Done():
		return ErrClosed
	}
	defer func() { v.recoverBufs <- buf }()
	deadline := func() time.Time { return time.Now().Add(v.cfg.HardDeadline) }
	v.forgetStale(m)
	missed, erased := 0, 0
	size := v.layout.HeaderBytes(m.col)
	block := uint32(len(buf) / size)
	var old []raid.Index
	for from := uint32(0); from < v.layout.ChunkSlots; from += block {
		n := min(block, v.layout.ChunkSlots-from)
		headers := buf[:int(n)*size]
		if err := readHeaders(conn, uint64(m.chunk), from, int(n), headers, deadline()); err != nil {
			return err
		}
		var miss int
		miss, old = v.compareRows(m, from, int(n), headers, old[:0])
		if err := v.eraseSlots(conn, m, raid.Index(from), headers, old, deadline); err != nil {
			return err
		}
		missed += miss
		erased += len(old)
	}
	if missed > 0 {
		v.log.Warn("a member misses rows: they are filled", "group", m.group, "column", m.col, "rows", missed)
	}
	if erased > 0 {
		v.log.Info("old headers of a member were erased", "group", m.group, "column", m.col, "rows", erased)
	}
	return nil
}

// forgetStale forgets the old headers of m, which is not up.
func (v *Volume) forgetStale(m *memberRef) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.seatOf(m).ref != m: // it has left
	case m.pending:
		v.mu.log.ForgetPendingStale(m.group, m.col)
	default:
		v.mu.log.ForgetStale(m.group, m.col)
	}
}

// errNotCompared ends the session of a member whose headers neither the
// recovery nor a comparison has seen.
var errNotCompared = errors.New("to be compared with the page map")

// readHeaders fetches n headers by conn and waits for them. After the deadline
// the session is over.
func readHeaders(conn transport.Conn, chunk uint64, from uint32, n int, dst []byte, deadline time.Time) error {
	done := make(chan error, 1)
	q := &transport.Request{
		Op: opReadHeaders, Chunk: chunk, Count: n, Deadline: deadline,
		Segs: []transport.Seg{{Index: from, Header: dst}},
		Done: func(q *transport.Request) { done <- q.Err },
	}
	if err := conn.Submit(q); err != nil {
		return err
	}
	conn.Kick()
	return <-done
}

// compareRows marks the rows in use that the member should have and does not,
// and appends the slots to old whose headers must be erased: these are in headers then.
func (v *Volume) compareRows(m *memberRef, from uint32, n int, headers []byte, old []raid.Index) (int, []raid.Index) {
	size := len(headers) / n
	missed := 0
	a := v.lock()
	defer v.unlock(a)
	if v.seatOf(m).ref != m {
		return 0, old // it has left
	}
	for k := range n {
		i := raid.Index(from) + raid.Index(k)
		if i < raid.ViewRows {
			continue // a record that it holds is older than the one in force
		}
		h, err := raid.ParseHeader(headers[k*size:][:size])
		// Nothing that is written from now on goes to this member before its
		// session is used, so it does not matter if the row is used meanwhile.
		sound := err == nil && h.Kind != raid.KindEmpty
		if dead, erase := v.mu.log.Leftover(m.group, i, m.col, h, sound, m.pending); erase {
			raid.PutErased(headers[k*size:][:size], v.site(m.group, i), dead)
			old = append(old, i)
		}
		if m.pending || v.mu.log.Expects(m.group, i, m.col, h, sound) {
			continue
		}
		v.mu.log.SetMissed(m.group, i, m.col)
		missed++
	}
	if missed > 0 {
		v.healthChangedLocked()
	}
	v.eraseSoonLocked()
	return missed, old
}
