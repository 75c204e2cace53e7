package meta

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"dmps/meta/metapb"
	"dmps/meta/state"
)

const (
	pageOfEvents = 1000             // in one answer
	longestWait  = 30 * time.Second // for an event
)

// ListEvents gives what is there at once, and else waits.
func (a statusAPI) ListEvents(ctx context.Context, req *connect.Request[metapb.ListEventsRequest]) (*connect.Response[metapb.ListEventsResponse], error) {
	m := req.Msg
	limit := min(max(int(m.Limit), 0), pageOfEvents)
	setDefault(&limit, pageOfEvents)
	wait := time.NewTimer(min(time.Duration(m.WaitMs)*time.Millisecond, longestWait))
	defer wait.Stop()
	for {
		changed := a.n.disks.state.Changed() // before looking, so that nothing is missed in between
		res := &metapb.ListEventsResponse{}
		err := a.n.ask(ctx, func(_ *reign, s *state.State) error {
			events, missed := s.EventsSince(m.Since)
			for _, e := range events[:min(len(events), limit)] {
				res.Events = append(res.Events, eventMessage(e))
			}
			res.Missed, res.Last = missed, s.LastEvent()
			return nil
		})
		if err != nil || len(res.Events) > 0 || res.Last < m.Since {
			return answer(res, err)
		}
		select {
		case <-changed:
		case <-wait.C:
			return answer(res, nil)
		case <-ctx.Done():
			return nil, connect.NewError(connect.CodeCanceled, ctx.Err())
		case <-a.n.ctx.Done():
			return nil, apiError(errNoQuorum)
		}
	}
}

func eventMessage(e state.Event) *metapb.Event {
	return &metapb.Event{
		Seq: e.Seq, AtUnixMs: noted(e.At), Kind: e.Kind, Server: string(e.Server), Volume: e.Volume, Count: e.Count, Text: e.Text, Volumes: e.Volumes,
	}
}
