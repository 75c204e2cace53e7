// Package standin is memory servers for tests and simulations that only answer who they
// are. They hold nothing, and let nobody open anything.
package standin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"dmps/internal/accept"
	"dmps/raid"
	"dmps/transport"
	"dmps/transport/tcp"
)

// Server answers hellos, as a memory server does that a leader dials back.
type Server struct {
	id          raid.ServerID
	incarnation raid.Incarnation
	addr        string
	tcp         *tcp.Server
	done        chan error
}

// Start listens on loopback. End it with Close.
func Start(id raid.ServerID, incarnation raid.Incarnation) (*Server, error) {
	l, err := accept.Listen(context.Background(), "tcp", "127.0.0.1:0", nil)
	if err != nil {
		return nil, fmt.Errorf("stand-in of server %s: %w", id, err)
	}
	s := &Server{id: id, incarnation: incarnation, addr: "tcp://" + l.Addr().String(), done: make(chan error, 1)}
	s.tcp = &tcp.Server{Backend: s, Log: slog.New(slog.DiscardHandler)}
	go func() { s.done <- s.tcp.Serve(l) }()
	return s, nil
}

// Addr is what the server registers with.
func (s *Server) Addr() string { return s.addr }

// Close ends it.
func (s *Server) Close() error { return errors.Join(s.tcp.Close(), <-s.done) }

// Open implements transport.Backend.
func (s *Server) Open(_ context.Context, h transport.Hello, _ func(error)) (transport.Session, transport.Welcome, error) {
	w := transport.Welcome{Server: string(s.id), Incarnation: uint64(s.incarnation), Window: 1}
	if h.Volume != 0 || h.Mode != transport.ModeReader {
		return nil, w, fmt.Errorf("%w: this is no memory server, it only answers for one", transport.ErrRefused)
	}
	return nothing{}, w, nil
}

// nothing is a session in which there is nothing.
type nothing struct{}

func (nothing) OpenChunk(uint64, transport.ChunkSpec) error { return transport.ErrNoChunk }
func (nothing) BeginWrite(*transport.SlotIO) error          { return transport.ErrNoChunk }
func (nothing) CommitWrite(*transport.SlotIO) error         { return transport.ErrNoChunk }
func (nothing) AbortWrite(*transport.SlotIO)                {}
func (nothing) BeginRead(*transport.SlotIO) error           { return transport.ErrNoChunk }
func (nothing) BeginReadHeaders(*transport.SlotIO) error    { return transport.ErrNoChunk }
func (nothing) EndRead(*transport.SlotIO)                   {}
func (nothing) Close()                                      {}
func (nothing) Rebuild(context.Context, *transport.RebuildSpec) (transport.RebuildResult, error) {
	return transport.RebuildResult{}, transport.ErrNoChunk
}
