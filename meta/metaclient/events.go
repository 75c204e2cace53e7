package metaclient

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"dmps/client"
	"dmps/internal/jitter"
	"dmps/meta/metapb"
	"dmps/raid"
)

// Waits of those who follow events.
const (
	maxWait    = 30 * time.Second // the service waits no longer
	followWait = 20 * time.Second
	followRest = time.Second // after nobody answered
)

// Events gives the events after one that is known (0: all that are kept), a
// page of at most 1000. When there is none it waits for one, up to wait.
func (c *Client) Events(ctx context.Context, since uint64, wait time.Duration) (EventPage, error) {
	wait = min(max(wait, 0), maxWait)
	req := &metapb.ListEventsRequest{Since: since, WaitMs: uint32(wait.Milliseconds())}
	res, err := call(ctx, c, wait+attemptTimeout, "events", req,
		func(n *endpoint, ctx context.Context, r *connect.Request[metapb.ListEventsRequest]) (*connect.Response[metapb.ListEventsResponse], error) {
			return n.status.ListEvents(ctx, r)
		})
	if err != nil {
		return EventPage{}, err
	}
	return EventPage{Events: each(res.Events, eventFrom), Missed: res.Missed, Last: res.Last}, nil
}

// FollowEvents calls f with every page of events after one that is known,
// until ctx ends or f fails, whose error it then returns. While the service
// does not answer it goes on trying.
func (c *Client) FollowEvents(ctx context.Context, since uint64, f func(EventPage) error) error {
	for {
		page, err := c.Events(ctx, since, followWait)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, client.ErrNoQuorum):
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(jitter.Around(followRest)):
			}
			continue
		case err != nil:
			return err
		}
		if len(page.Events) > 0 || page.Missed > 0 {
			if err := f(page); err != nil {
				return err
			}
		}
		if n := len(page.Events); n > 0 {
			since = page.Events[n-1].Seq
		} else if page.Last < since {
			since = page.Last // restored from a backup that is older
		}
	}
}

func eventFrom(p *metapb.Event) Event {
	return Event{
		Seq: p.GetSeq(), At: instant(p.GetAtUnixMs()), Kind: p.GetKind(), Server: raid.ServerID(p.GetServer()),
		Volume: p.GetVolume(), Count: p.GetCount(), Text: p.GetText(), Volumes: p.GetVolumes(),
	}
}
