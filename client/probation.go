package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dmps/internal/jitter"
	"dmps/raid"
	"dmps/transport"
)

// A server may answer small requests and lose large ones, behind a link of another
// packet size or one that is lossy: each session begins well, is given pages, and is
// suspected. A server that fell silent alone, again and again, is on probation: it
// counts as away until 128 KiB have passed each way, and is tried at a pace that
// halves each time that fails, or that it falls silent soon afterwards.
const (
	strikesMost    = 3                // of one server within strikesWithin
	strikesWithin  = 10 * time.Second //
	probationFirst = time.Second      // the first wait; each further one is twice as long
	probationMost  = time.Minute
)

// probation is what is known of a server's silences. Guarded by Volume.mu.
type probation struct {
	on      bool
	strikes int
	last    int64         // when it was silent last, or lost a probe, nanoseconds
	wait    time.Duration // before the next probe; 0: it never was on probation lately
}

// strikeLocked notes that p fell silent although others answered, or that a probe
// was lost.
func (v *Volume) strikeLocked(p *peer) {
	b, now := &p.probation, nanotime()
	if now-b.last > int64(max(strikesWithin, 2*b.wait)) {
		*b = probation{}
	}
	b.last = now
	if b.strikes++; b.strikes < strikesMost {
		return
	}
	b.on = true
	b.wait = min(max(2*b.wait, probationFirst), probationMost)
	v.log.Warn("server is on probation: it falls silent again and again, and is used when 128 KiB pass each way",
		"server", p.id, "next_probe", b.wait)
}

// neededLocked reports whether something waits for members that are away.
func (v *Volume) neededLocked() bool { return v.mu.stalled != nil || v.mu.starved != 0 }

// sitOut waits until a server on probation may be tried. When requests wait for
// members that is soon: a bad member is better than none.
func (p *peer) sitOut(ctx context.Context) {
	for ctx.Err() == nil {
		p.v.mu.Lock()
		b := p.probation
		wait := b.wait
		if p.v.neededLocked() {
			wait = min(wait, probationFirst)
		}
		p.v.mu.Unlock()
		if !b.on || nanotime()-b.last >= int64(wait) {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(jitter.Around(redialRefused)):
		}
	}
}

// passes reports whether p may be used in a new session: on probation it must
// take a probe first.
func (p *peer) passes(ctx context.Context, conn transport.Conn) error {
	v := p.v
	v.mu.Lock()
	on := p.probation.on
	v.mu.Unlock()
	if !on {
		return nil
	}
	err := p.probe(ctx, conn)
	a := v.lock()
	defer v.unlock(a)
	if err != nil {
		v.strikeLocked(p)
		return fmt.Errorf("probing server %s: %w", p.id, err)
	}
	p.probation.on = false
	v.log.Info("server is off probation", "server", p.id)
	return nil
}

var errProbe = errors.New("it took a write outside of the chunk")

// probe moves 128 KiB each way. What goes there must harm nothing, and a write that
// is cut off leaves empty slots: it is aimed at slots that the chunk does not have.
// The server takes all of it from the line and refuses it. One-sided media refuse it
// here, and are tried by the read alone.
func (p *peer) probe(ctx context.Context, conn transport.Conn) error {
	v := p.v
	var m *memberRef
	v.mu.Lock()
	for _, o := range p.members {
		if o.conn == conn {
			m = o
		}
	}
	v.mu.Unlock()
	if m == nil {
		return nil // nothing is there that it could be used for
	}
	bufs, err := v.probes.get(ctx, raid.MaxBatchPages, nil)
	if err != nil {
		return err
	}
	defer freeBufs(bufs)
	size := v.layout.HeaderBytes(m.col)
	done := make(chan error, 1)
	send := func(op transport.Op, from, slots uint32) error {
		q := &transport.Request{Op: op, Chunk: uint64(m.chunk), Done: func(q *transport.Request) { done <- q.Err }}
		q.Deadline = time.Now().Add(v.cfg.HardDeadline)
		for i, b := range bufs[:min(len(bufs), int(slots))] {
			q.Segs = append(q.Segs, transport.Seg{Index: from + uint32(i), Header: b.hdr[:size], Page: b.Page})
		}
		defer context.AfterFunc(ctx, func() { conn.Abort(ErrClosed) })()
		if err := conn.Submit(q); err != nil {
			return err
		}
		conn.Kick()
		return <-done
	}
	if err := send(opRead, 0, v.layout.ChunkSlots); err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	switch err := send(opWrite, v.layout.ChunkSlots, raid.MaxBatchPages); {
	case err == nil:
		return errProbe
	case !errors.Is(err, transport.ErrNoChunk):
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// probationLocked names who is on probation, and counts their members.
func (v *Volume) probationLocked() (ids []raid.ServerID, members int) {
	for _, p := range v.allPeers() {
		if p.probation.on && len(p.members) > 0 {
			ids = append(ids, p.id)
			members += len(p.members)
		}
	}
	return ids, members
}
