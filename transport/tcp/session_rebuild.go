package tcp

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"dmps/transport"
)

// rebuilds are the rebuild requests of a session that run. They have
// goroutines of their own, so that no page waits behind them.
type rebuilds struct {
	ctx    context.Context // ends with the session
	cancel context.CancelFunc
	wg     sync.WaitGroup
	places chan struct{}
}

func (r *rebuilds) begin() {
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.places = make(chan struct{}, transport.RebuildsInFlight)
}

// rebuild receives a rebuild request and starts it.
func (s *session) rebuild(q *request) error {
	spec, err := s.rebuildSpec(q)
	if err != nil {
		return unexpected(err)
	}
	select {
	case s.rebuilds.places <- struct{}{}:
	default:
		return fmt.Errorf("%w: more than %d rebuilds in flight", errFrame, transport.RebuildsInFlight)
	}
	id := q.id
	s.rebuilds.wg.Go(func() {
		res, err := s.b.Rebuild(s.rebuilds.ctx, spec)
		<-s.rebuilds.places // before the answer, which allows the next one
		s.rebuilt(id, &res, err)
	})
	return nil
}

func (s *session) rebuildSpec(q *request) (*transport.RebuildSpec, error) {
	s.need(rebuildHead)
	b, err := s.r.Next(rebuildHead)
	if err != nil {
		return nil, err
	}
	spec, size, err := parseRebuildHead(b, q)
	if err != nil {
		return nil, err
	}
	s.need(size)
	if b, err = s.r.Next(size); err != nil {
		return nil, err
	}
	if spec.Sources, err = parseRebuildSources(b, int(q.runs)); err != nil {
		return nil, err
	}
	s.need(int(q.segs) * rebuildRowSize)
	if b, err = s.r.Next(int(q.segs) * rebuildRowSize); err != nil {
		return nil, err
	}
	if spec.Rows, err = parseRebuildRows(b); err != nil {
		return nil, err
	}
	if err := spec.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", errFrame, err)
	}
	return &spec, nil
}

// rebuilt answers a rebuild.
func (s *session) rebuilt(id uint32, res *transport.RebuildResult, err error) {
	p := reply{typ: typeReply, id: id, status: transport.StatusOf(err)}
	if errors.Is(err, context.Canceled) {
		return // the session is over, and says so itself
	}
	if err == nil {
		p.length = uint32(rebuildReplySize(res))
	}
	if s.w.Begin() != nil {
		return // the session is over
	}
	p.put(s.w.Bytes(replyHead))
	if err == nil {
		putRebuildReply(s.w.Bytes(int(p.length)), res)
	}
	s.w.End(nil)
	s.w.Flush()
}
