package client

import (
	"context"
	"errors"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// compareAtATime is how many headers fit one page buffer.
const compareAtATime = raid.PageSize / raid.MaxHeaderSize

// compare looks at all headers of a member that the recovery did not see, by a
// session in which nothing else uses it yet. The recovery took it that such a
// member has what was sent to it. Where it does not, as after a client that
// died in the middle of a batch, or because it is still being rebuilt, the row
// is marked as missed, and filled.
func (v *Volume) compare(ctx context.Context, conn transport.Conn, m *memberRef) error {
	if v.mu.log == nil {
		return nil
	}
	// The watch does not know this session yet.
	defer context.AfterFunc(ctx, func() { conn.Abort(ErrClosed) })()
	bufs, ok := v.scratch.tryGet(1, nil)
	if !ok {
		return errTooMany
	}
	defer freeBufs(bufs)
	missed := 0
	for from := uint32(0); from < v.layout.ChunkSlots; from += compareAtATime {
		n := min(compareAtATime, v.layout.ChunkSlots-from)
		headers := bufs[0].Page[:int(n)*v.layout.HeaderBytes(m.col)]
		if err := readHeaders(conn, uint64(m.chunk), from, int(n), headers, time.Now().Add(v.cfg.HardDeadline)); err != nil {
			return err
		}
		missed += v.compareRows(m, from, int(n), headers)
	}
	if missed > 0 {
		v.log.Warn("a member misses rows: they are filled", "group", m.group, "column", m.col, "rows", missed)
	}
	return nil
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

// compareRows marks the rows in use that the member should have and does not.
func (v *Volume) compareRows(m *memberRef, from uint32, n int, headers []byte) int {
	size := len(headers) / n
	missed := 0
	a := v.lock()
	defer v.unlock(a)
	for k := range n {
		i := raid.Index(from) + raid.Index(k)
		h, err := raid.ParseHeader(headers[k*size:][:size])
		if v.mu.log.Expects(m.group, i, m.col, h, err == nil) {
			continue
		}
		v.mu.log.SetMissed(m.group, i, m.col)
		missed++
	}
	if missed > 0 {
		v.healthChangedLocked()
	}
	return missed
}
