package server

import (
	"context"
	"fmt"
	"strings"

	"dmps/raid"
	"dmps/transport"
)

// volume is what the server knows of a volume that it lends to. It stays when
// the chunks are gone, for its epoch.
type volume struct {
	id       raid.VolumeID
	epoch    uint64                     // highest of an owner's hello
	rails    uint64                     // transport.Rail.Session of the owner that fenced last; 0: it has no rails
	attempts [transport.MaxRails]uint32 // the last that was heard of each of these rails
	sessions map[*session]struct{}
	opening  chan struct{} // holds one token: one owner is let in at a time
}

// Open implements transport.Backend: the handshake, and the fence.
func (s *Server) Open(ctx context.Context, h transport.Hello, stop func(error)) (transport.Session, transport.Welcome, error) {
	w := transport.Welcome{Server: string(s.c.ID), Incarnation: uint64(s.incarnation), Window: s.c.Window}
	if err := s.admit(h); err != nil {
		s.m.refusedSessions.Inc()
		s.c.Log.Warn("session refused", "client", h.Client, "volume", h.Volume, "err", err)
		return nil, w, err
	}
	v := s.volume(raid.VolumeID(h.Volume))
	if h.Mode == transport.ModeOwner {
		select {
		case v.opening <- struct{}{}:
			defer func() { <-v.opening }()
		case <-ctx.Done():
			return nil, w, fmt.Errorf("waiting for another owner's handshake: %w", ctx.Err())
		}
		if err := s.fenceOlder(ctx, v, h); err != nil {
			return nil, w, err
		}
	}
	ss := &session{s: s, volume: v, hello: h, stop: stop, done: make(chan struct{}), chunks: make(map[uint64]*chunk)}
	ss.links.s = ss
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.Epoch < v.epoch {
		return nil, w, staleEpoch(h, v.epoch)
	}
	if s.mu.closing {
		return nil, w, fmt.Errorf("%w: server is closing", transport.ErrClosed)
	}
	if len(v.sessions) >= maxSessions {
		return nil, w, fmt.Errorf("%w: volume %d has %d sessions already", transport.ErrRefused, h.Volume, len(v.sessions))
	}
	v.sessions[ss] = struct{}{}
	s.m.sessions.Inc()
	s.c.Log.Info("session begins", "client", h.Client, "volume", h.Volume, "epoch", h.Epoch, "mode", h.Mode, "rail", h.Rail.Index)
	return ss, w, nil
}

// maxSessions bounds the sessions of one volume: its owner, and the servers
// that rebuild from this one.
const maxSessions = 256

func staleEpoch(h transport.Hello, epoch uint64) error {
	return fmt.Errorf("%w: volume %d is at epoch %d, the client at %d", transport.ErrStaleEpoch, h.Volume, epoch, h.Epoch)
}

// asksWho reports whether a session is only to see which server answers: volume 0 is none.
func asksWho(h transport.Hello) bool { return h.Volume == 0 && h.Mode == transport.ModeReader }

// admit checks what needs no look at the volume.
func (s *Server) admit(h transport.Hello) error {
	switch cluster := s.Cluster(); {
	case len(h.Auth) != 0:
		return fmt.Errorf("%w: authentication is not supported", transport.ErrRefused)
	case cluster == "" && asksWho(h):
		// Before the metadata says which cluster this is, it looks whether this is who it says.
	case cluster == "":
		return fmt.Errorf("%w: this server does not belong to a cluster yet", transport.ErrRefused)
	case h.Cluster != cluster:
		return fmt.Errorf("%w: client of cluster %q, server of %q", transport.ErrRefused, clip(h.Cluster), cluster)
	case int(h.Rail.Index) >= transport.MaxRails:
		return fmt.Errorf("%w: rail %d of a session", transport.ErrRefused, h.Rail.Index)
	case h.Incarnation != 0 && h.Incarnation != uint64(s.incarnation):
		return fmt.Errorf("%w: the server was restarted and holds nothing of %x", transport.ErrIncarnation, h.Incarnation)
	}
	return nil
}

func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 64)], "?") }

// fenceOlder raises the volume's epoch and ends its owner sessions; one that
// joins its rails ends those of the same rail only. When it returns nil, none of
// what it ended can touch the arena any more.
//
// A rail that is dialled again takes the same way: its client learns from the
// welcome that writes which it had under way there landed before, or never will,
// and may send them by another rail. Who is not of the session that fenced last
// must not join: its hello may have been under way while that one was let in.
func (s *Server) fenceOlder(ctx context.Context, v *volume, h transport.Hello) error {
	s.mu.Lock()
	if h.Epoch < v.epoch {
		s.mu.Unlock()
		return staleEpoch(h, v.epoch)
	}
	newer := h.Epoch > v.epoch
	// Its first hello may come late, and by another address than the one that let
	// it in first: it is no newer owner than itself.
	join := h.Rail.Session != 0 && h.Rail.Session == v.rails && !newer
	if h.Rail.Join && !join {
		s.mu.Unlock()
		return fmt.Errorf("%w: the session that a rail was to join is over", transport.ErrClosed)
	}
	if !join {
		clear(v.attempts[:])
	}
	if h.Rail.Session != 0 {
		last := &v.attempts[h.Rail.Index]
		if h.Rail.Attempt <= *last {
			s.mu.Unlock()
			return fmt.Errorf("%w: a later hello of this rail was here before", transport.ErrClosed)
		}
		*last = h.Rail.Attempt
	}
	v.epoch, v.rails = h.Epoch, h.Rail.Session
	var old []*session
	for o := range v.sessions {
		switch {
		case join && o.hello.Rail.Index != h.Rail.Index:
		case o.hello.Mode == transport.ModeOwner, newer:
			// A reader of an older layout has nothing to read any more either.
			old = append(old, o)
		}
	}
	s.mu.Unlock()
	for _, o := range old {
		cause := fmt.Errorf("%w: a newer session of the same lease", transport.ErrClosed)
		switch {
		case newer:
			cause = staleEpoch(o.hello, h.Epoch)
		case join:
			cause = fmt.Errorf("%w: the rail was dialled again", transport.ErrClosed)
		}
		o.fence(cause)
	}
	for _, o := range old {
		select {
		case <-o.done:
		case <-ctx.Done():
			// Not admitted: the old session may still be writing.
			return fmt.Errorf("waiting for the session of %q to end: %w", clip(o.hello.Client), ctx.Err())
		}
	}
	return nil
}

// volume returns the record of a volume, made if it is new.
func (s *Server) volume(id raid.VolumeID) *volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.mu.volumes[id]
	if v == nil {
		v = &volume{id: id, sessions: make(map[*session]struct{}), opening: make(chan struct{}, 1)}
		s.mu.volumes[id] = v
	}
	return v
}

// forget ends a session's membership of its volume.
func (s *Server) forget(ss *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := ss.volume.sessions[ss]; ok {
		delete(ss.volume.sessions, ss)
		s.m.sessions.Dec()
	}
}
