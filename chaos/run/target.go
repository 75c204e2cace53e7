package run

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"dmps/chaos/netfault"
	"dmps/chaos/plan"
	"dmps/client"
	"dmps/meta/metaclient"
)

// Device is a connection of one worker to the volume.
type Device interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Trim(off, n int64) error
	// Broken reports whether an error means that the connection is over, so that
	// the outcome of the request is not known.
	Broken(err error) bool
	// Replaced reports whether it is of a client whose volume another one takes or
	// has taken.
	Replaced() bool
	Close() error
}

// ErrSkipped is a fault that cannot be had here: go on without it.
var ErrSkipped = errors.New("skipped")

// Target is a cluster that can be broken. Its methods may be called from any
// goroutine.
type Target interface {
	// Name of the kind of target.
	Name() string
	// Pages is the size of the volume.
	Pages() int
	// Dial makes a connection to the volume; it fails while the client is down.
	Dial(ctx context.Context) (Device, error)
	// Break begins a fault. mend ends it; it is called once and is nil when there
	// is nothing to end. Errors: ErrSkipped, with the reason.
	Break(ctx context.Context, f plan.Fault) (mend func(context.Context) error, err error)
	// Health says what is missing, "" if nothing is: every role runs and answers,
	// and the volume has all its redundancy.
	Health(ctx context.Context) (missing string)
	// Crashed lists roles that ended though nobody asked them to, each once.
	Crashed() []string
	Close() error
}

// cutAll cuts links of a net, and gives what undoes it.
func cutAll(n *netfault.Net, links []plan.Link) (whole func(), err error) {
	var undo []func()
	whole = func() {
		for _, u := range undo {
			u()
		}
	}
	for _, l := range links {
		u, err := n.Break(plan.Fault{Kind: plan.Cut, Link: l})
		if err != nil {
			whole()
			return nil, err
		}
		undo = append(undo, u)
	}
	return whole, nil
}

// skipped is an ErrSkipped.
func skipped(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrSkipped, fmt.Sprintf(format, a...))
}

// askLimit bounds one question to one metadata node.
const askLimit = 2 * time.Second

// health asks every metadata node by itself.
func health(ctx context.Context, urls []string, servers int, m int) string {
	var missing []string
	for i, u := range urls {
		st, err := ask(ctx, u)
		if err != nil {
			missing = append(missing, fmt.Sprintf("meta%d: %v", i+1, err))
			continue
		}
		for _, s := range lacks(st, servers, m) {
			missing = append(missing, fmt.Sprintf("meta%d says: %s", i+1, s))
		}
	}
	return strings.Join(missing, "; ")
}

func ask(ctx context.Context, url string) (*metaclient.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	c, err := metaclient.New([]string{url}, metaclient.WithPatience(askLimit))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer http.DefaultClient.CloseIdleConnections()
	return c.Status(ctx)
}

// lacks lists what a status says is missing.
func lacks(st *metaclient.Status, servers, m int) (missing []string) {
	no := func(format string, a ...any) { missing = append(missing, fmt.Sprintf(format, a...)) }
	up := 0
	for _, s := range st.Servers {
		if s.State == metaclient.ServerUp {
			up++
		}
	}
	if up < servers {
		no("%d of %d servers are up", up, servers)
	}
	if len(st.Volumes) != 1 {
		no("%d volumes", len(st.Volumes))
		return missing
	}
	v := st.Volumes[0]
	switch {
	case v.State != client.StateHealthy || v.RedundancyLeft != m || v.DegradedGroups > 0:
		no("the volume is %s: %d groups degraded, can lose %d of %d, %d rows to rebuild", v.State, v.DegradedGroups, v.RedundancyLeft, m, v.RebuildRows)
	case v.Rebuilding > 0 || v.Pending > 0 || v.RebuildRows > 0:
		no("%d members are being rebuilt, %d moved, %d rows left", v.Rebuilding, v.Pending, v.RebuildRows)
	case v.Lease == nil || v.Report == nil:
		no("no client reports")
	}
	if v.StuckMembers > 0 {
		no("%d members cannot be replaced: %s", v.StuckMembers, v.StuckReason)
	}
	if v.Report != nil && v.Report.LostPages > 0 {
		no("%d pages are lost", v.Report.LostPages)
	}
	return missing
}
