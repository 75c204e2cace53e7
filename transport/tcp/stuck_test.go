package tcp

import (
	"context"

	"dmps/transport"
)

// stuckRebuilds is a Backend whose rebuilds end with their context.
type stuckRebuilds struct {
	transport.Session
	begun chan struct{}
}

func (s *stuckRebuilds) Open(context.Context, transport.Hello, func(error)) (transport.Session, transport.Welcome, error) {
	return s, transport.Welcome{Server: "s", Window: 4}, nil
}

func (s *stuckRebuilds) Rebuild(ctx context.Context, _ *transport.RebuildSpec) (transport.RebuildResult, error) {
	s.begun <- struct{}{}
	<-ctx.Done()
	return transport.RebuildResult{}, ctx.Err()
}

func (s *stuckRebuilds) Close() {}
