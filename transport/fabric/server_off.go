//go:build !fabric || !cgo

package fabric

import (
	"log/slog"
	"net"
	"time"

	"dmps/transport"
)

// Server in a binary without libfabric serves nothing.
type Server struct {
	Backend   transport.Backend
	Log       *slog.Logger
	Providers []string
	Spin      time.Duration
}

// Available reports why a provider cannot be used, or nil.
func Available(_, _ string) error { return errNotBuilt }

// Serve closes l and fails.
func (s *Server) Serve(l net.Listener) error {
	_ = l.Close()
	return errNotBuilt
}

// Full does nothing.
func (s *Server) Full() error { return nil }

// TurnedAway does nothing.
func (s *Server) TurnedAway() uint64 { return 0 }

// Close does nothing.
func (s *Server) Close() error { return nil }
