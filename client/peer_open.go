package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"dmps/raid"
	"dmps/transport"
)

// errChunkGone: the right incarnation of a server does not have a chunk that
// it had; treat that chunk as lost.
var errChunkGone = errors.New("server no longer holds its chunk")

// connect makes a session in which all chunks are open, but for those that the server
// has no memory for: these were never there. limit is for the handshake, and then
// for each chunk: a server may hold thousands.
func (p *peer) connect(run context.Context, limit time.Duration) (transport.Conn, error) {
	v := p.v
	ctx, cancel := context.WithTimeout(run, limit)
	conn, _, err := v.cfg.Dialer.Dial(ctx, p.addr, transport.Hello{
		Cluster:     v.layout.Cluster,
		Volume:      uint64(v.layout.Volume),
		Epoch:       uint64(v.layout.Epoch),
		Incarnation: uint64(p.inc),
		Mode:        transport.ModeOwner,
		Client:      v.cfg.Holder,
	}, v.idle)
	cancel()
	if err != nil {
		return nil, fmt.Errorf("connecting to server %s at %s: %w", p.id, p.addr, err)
	}
	refs := p.refs()
	errs := transport.OpenAll(run, limit, len(refs), func(ctx context.Context, i int) error {
		return p.openChunk(ctx, conn, refs[i])
	})
	for i, m := range refs {
		err := errs[i]
		if err == nil {
			err = p.settle(run, conn, m)
		}
		if errors.Is(err, errChunkGone) {
			v.chunkGone(m, err)
			continue
		}
		if errors.Is(err, transport.ErrNoMemory) && v.inplace == nil && !v.wasOpened(m) {
			continue // openLate goes on with it: what else is there is needed now
		}
		if err != nil {
			conn.Close()
			return nil, err
		}
	}
	return conn, nil
}

// refs is the list of members as it is now.
func (p *peer) refs() []*memberRef {
	p.v.mu.Lock()
	defer p.v.mu.Unlock()
	return slices.Clone(p.members)
}

// compared reports whether it is known what all its members hold, or those of
// them that were opened in a session.
func (p *peer) compared(in transport.Conn) bool {
	p.v.mu.Lock()
	defer p.v.mu.Unlock()
	for _, m := range p.members {
		if !m.compared && (in == nil || m.conn == in) {
			return false
		}
	}
	return true
}

// wasOpened reports whether this client has had the chunk of m.
func (v *Volume) wasOpened(m *memberRef) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return m.opened
}

// open opens a member's chunk in a session and makes sure that what it holds
// is known, which may take longer than ctx: until run ends.
func (p *peer) open(ctx, run context.Context, conn transport.Conn, m *memberRef) error {
	if err := p.openChunk(ctx, conn, m); err != nil {
		return err
	}
	return p.settle(run, conn, m)
}

// openChunk is the first half of open. It may run for several members at once.
func (p *peer) openChunk(ctx context.Context, conn transport.Conn, m *memberRef) error {
	v := p.v
	opened := v.wasOpened(m)
	spec := transport.ChunkSpec{
		Slots:       v.layout.ChunkSlots,
		HeaderBytes: uint32(v.layout.HeaderBytes(m.col)),
		Group:       uint32(m.group),
		InPlace:     v.layout.Kind != raid.LayoutLog,
		MustExist:   opened || v.shouldExist(m),
	}
	err := conn.OpenChunk(ctx, uint64(m.chunk), spec)
	if errors.Is(err, transport.ErrNoChunk) && !opened && spec.MustExist && v.inplace == nil {
		// The layout is older than what the server was told, or no earlier client
		// ever reached it. It is made anew, and must not testify that what it
		// lacks was never answered.
		v.log.Warn("a server does not hold a chunk of the layout: it counts as empty", "server", p.id, "group", m.group, "column", m.col, "chunk", m.chunk)
		m.empty.Store(true)
		spec.MustExist = false
		err = conn.OpenChunk(ctx, uint64(m.chunk), spec)
	}
	if none := errors.Is(err, transport.ErrNoMemory); none || err == nil {
		v.mu.Lock()
		m.refused = none
		v.mu.Unlock()
	}
	switch {
	case errors.Is(err, transport.ErrNoChunk) && spec.MustExist: // made anew it would read as zeros
		return fmt.Errorf("%w: chunk %d on %s: %v", errChunkGone, m.chunk, p.id, err)
	case err != nil:
		return fmt.Errorf("opening chunk %d on server %s: %w", m.chunk, p.id, err)
	}
	return nil
}

// settle is the second half: it compares what the chunk holds, if that is due.
func (p *peer) settle(run context.Context, conn transport.Conn, m *memberRef) error {
	v := p.v
	v.mu.Lock()
	compared := m.compared
	v.mu.Unlock()
	if v.recovered.Load() && !compared {
		if err := v.compare(run, conn, m); err != nil {
			return fmt.Errorf("comparing server %s with the map: %w", p.id, err)
		}
		compared = true
	}
	v.mu.Lock()
	m.opened, m.conn, m.compared = true, conn, compared
	v.mu.Unlock()
	return nil
}

// shouldExist reports whether earlier clients of the volume must have made the
// chunk of m: it is a member that counts as in sync.
func (v *Volume) shouldExist(m *memberRef) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return !v.layout.FirstEpoch && !m.rebuilding && !m.pending
}
