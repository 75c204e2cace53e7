package metaclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"dmps/client"
	"dmps/internal/jitter"
	"dmps/meta/level"
	"dmps/meta/metapb"
	"dmps/meta/metapb/metapbconnect"
	"dmps/server"
)

// Limits of the search for an answer.
const (
	defaultPatience = 10 * time.Second       // an election takes about 2 s; a frozen leader is left after 3 s more
	attemptTimeout  = 5 * time.Second        // for one node, which may have to commit: longer than the service's own limit
	beatTimeout     = time.Second            // for one node and one heartbeat: two must fit before a server is suspected
	backupTimeout   = 30 * time.Second       // until the first bytes of a backup
	dialTimeout     = time.Second            // to a node that is switched off
	backoffFirst    = 50 * time.Millisecond  // after every node was asked once
	backoffMax      = 800 * time.Millisecond // between rounds
	maxReply        = 256 << 20              // bytes: the layout of 8 TiB in 256-slot chunks does not pass, in default chunks it does
)

// Client asks the metadata service. It is safe for concurrent use.
type Client struct {
	nodes    []endpoint
	last     atomic.Uint32 // index of the node that answered last: asked first
	patience time.Duration
	http     *http.Client
	host     Host
	build    Build
	heard    *generations
	cluster  atomic.Pointer[string] // nil: not known yet (learn)
}

var (
	_ client.Meta      = (*Client)(nil)
	_ server.Registrar = (*Client)(nil)
)

// endpoint is one meta node.
type endpoint struct {
	url     string
	cluster metapbconnect.ClusterServiceClient
	servers metapbconnect.ServerServiceClient
	volumes metapbconnect.VolumeServiceClient
	status  metapbconnect.StatusServiceClient
}

// An Option changes how a Client asks.
type Option func(*Client)

// WithPatience sets for how long a call goes on while no node decides. The
// context of a call ends it earlier. Default: 10 s.
func WithPatience(d time.Duration) Option { return func(c *Client) { c.patience = d } }

// New makes a client for the meta nodes at the given addresses, http://HOST:PORT
// or HOST:PORT. It does not connect yet.
func New(urls []string, opts ...Option) (*Client, error) {
	if len(urls) == 0 {
		return nil, errors.New("no metadata node given: use --meta http://HOST:PORT,... or the variable DMPS_META")
	}
	heard := &generations{seen: map[string]uint64{}, next: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		MaxIdleConnsPerHost: 4, // a client renews, reports and asks; rarely more at a time
		IdleConnTimeout:     30 * time.Second,
	}}
	c := &Client{patience: defaultPatience, build: level.This(""), heard: heard, http: &http.Client{Transport: heard}}
	for _, opt := range opts {
		opt(c)
	}
	for _, s := range urls {
		u, err := ParseURL(s)
		if err != nil {
			return nil, err
		}
		o := connect.WithReadMaxBytes(maxReply)
		c.nodes = append(c.nodes, endpoint{
			url:     u,
			cluster: metapbconnect.NewClusterServiceClient(c.http, u, o),
			servers: metapbconnect.NewServerServiceClient(c.http, u, o),
			volumes: metapbconnect.NewVolumeServiceClient(c.http, u, o),
			status:  metapbconnect.NewStatusServiceClient(c.http, u, o),
		})
	}
	return c, nil
}

// ParseURL completes and checks the API address of a meta node.
func ParseURL(s string) (string, error) {
	s = strings.TrimSuffix(strings.TrimSpace(s), "/")
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" || u.Host == "" || u.Path != "" || u.Port() == "" {
		return "", fmt.Errorf("metadata address %q: use http://HOST:PORT", s)
	}
	return s, nil
}

// Close ends idle connections.
func (c *Client) Close() {
	if t, ok := c.heard.next.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// call asks the nodes in turn, the one that answered last first, until one
// decides. Every call may be made twice: an answer that got lost is no answer.
func call[Req, Res any](ctx context.Context, c *Client, limit time.Duration, what string, req *Req,
	f func(*endpoint, context.Context, *connect.Request[Req]) (*connect.Response[Res], error),
) (*Res, error) {
	patience := time.NewTimer(c.patience)
	defer patience.Stop()
	backoff := backoffFirst
	start := c.last.Load()
	var doubt error // an attempt may have been carried out: no later answer says that nothing was changed
	for {
		var undecided error // what the most telling node of this round said
		var refused error   // by a node of another cluster, or one that has another name
		for i := range c.nodes {
			at := (int(start) + i) % len(c.nodes)
			n := &c.nodes[at]
			attempt, cancel := context.WithTimeout(ctx, limit)
			res, err := f(n, attempt, connect.NewRequest(req))
			cancel()
			if err == nil {
				c.last.Store(uint32(at))
				return res.Msg, nil
			}
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("%s: %w", what, err)
			}
			r := reasonOf(err)
			if mayHaveBeen(req, r, err) {
				doubt = fmt.Errorf("%s: %s: %w (%w): %v", what, n.url, ErrUnknownOutcome, client.ErrNoQuorum, err)
			}
			switch {
			case r == nil && connect.CodeOf(err) == connect.CodePermissionDenied:
				refused = fmt.Errorf("%s: %s: %w", what, n.url, err)
			case r == nil && !unanswered(err):
				// Not the service, or a version of it that speaks otherwise.
				return nil, fmt.Errorf("%s: %s: %w", what, n.url, err)
			case r == nil:
				if undecided == nil {
					undecided = fmt.Errorf("%s: %w (%w): %s: %v", what, ErrUnreachable, client.ErrNoQuorum, n.url, err)
				}
			case r.Code == metapb.Reason_CODE_NO_QUORUM:
				undecided = fmt.Errorf("%s: %s: %w", what, n.url, decode(err, r))
			case r.Code == metapb.Reason_CODE_UNKNOWN_OUTCOME:
				undecided = fmt.Errorf("%s: %s: %w (%w)", what, n.url, decode(err, r), client.ErrNoQuorum)
			case foreign(r):
				refused = fmt.Errorf("%s: %s: %w", what, n.url, decode(err, r))
			default:
				c.last.Store(uint32(at))
				err = fmt.Errorf("%s: %w", what, decode(err, r))
				if doubt != nil {
					err = fmt.Errorf("%w (an earlier attempt of this call may have been carried out)", err)
				}
				return nil, err
			}
		}
		if doubt != nil {
			undecided = doubt
		}
		if undecided == nil {
			return nil, refused
		}
		wait := time.NewTimer(jitter.Around(backoff))
		select {
		case <-wait.C:
		case <-patience.C:
			wait.Stop()
			return nil, undecided
		case <-ctx.Done():
			wait.Stop()
			return nil, fmt.Errorf("%w: %w", ctx.Err(), undecided)
		}
		backoff = min(2*backoff, backoffMax)
	}
}

// mayHaveBeen reports whether an attempt that failed may have changed something
// all the same. What its caller repeats for ever anyway, or only asks, is not counted.
func mayHaveBeen(req any, r *metapb.Reason, err error) bool {
	switch q := req.(type) {
	case *metapb.GetStatusRequest, *metapb.ListMembersRequest, *metapb.ListServersRequest, *metapb.ListVolumesRequest,
		*metapb.GetVolumeRequest, *metapb.GetLayoutRequest, *metapb.ListEventsRequest, *metapb.BackupRequest,
		*metapb.HeartbeatRequest, *metapb.RegisterRequest, *metapb.RenewRequest:
		return false
	case *metapb.RemoveServerRequest:
		if q.DryRun {
			return false
		}
	}
	return r.GetCode() == metapb.Reason_CODE_UNKNOWN_OUTCOME || r == nil && unanswered(err) && !neverSent(err)
}

// unanswered reports whether a node gave no answer: refused connection,
// timeout, or gone in the middle.
func unanswered(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled, connect.CodeUnknown:
		return true
	}
	return false
}

// neverSent reports whether a call failed before a byte of it left.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
