package meta

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"dmps/meta/metapb"
	"dmps/meta/state"
	"dmps/raid"
	"dmps/server"
)

// A memory server that begins, or says that it is elsewhere, is dialled by the leader
// before it counts: else a wrong --advertise would show when its members are sought there.
// One that was found once is not dialled again, neither when it was suspect nor by the
// next leader, so nobody is blamed because a leader alone cannot reach it.
const (
	dialLimit   = 1500 * time.Millisecond // for all addresses of a server; a registration has 5 s
	dialsAtOnce = 64
	maxAddrs    = 8                // of a server: as many as a session has rails
	toldFor     = 10 * time.Second // servers that are refused try again every 2 s
	maxUnfound  = 256
)

// unfound is a server that was not found where it says that it is.
type unfound struct {
	addr, why string
	at        time.Time
	up        bool // it answers at another of its addresses, and counts
}

// findsServer refuses a server that does not answer at its addresses, or where another
// one does. Of several one must answer; those that do not are told to the operator.
func (n *Node) findsServer(ctx context.Context, c *state.Register, cluster string) error {
	select {
	case n.dials <- struct{}{}:
		defer func() { <-n.dials }()
	case <-ctx.Done():
		return errNoQuorum // nothing was done
	}
	soon, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	addrs := strings.Split(c.Addr, ",")
	errs := make([]error, len(addrs))
	var wg sync.WaitGroup
	for i, addr := range addrs {
		wg.Go(func() { errs[i] = n.cfg.dialBack(soon, addr, c, cluster) })
	}
	wg.Wait()
	silent, u := 0, unfound{at: time.Now()}
	for i, err := range errs {
		if err == nil {
			continue
		}
		silent++
		if u.why == "" || isAnother(err) {
			u.addr, u.why = addrs[i], err.Error()
		}
		if isAnother(err) {
			silent = len(addrs) // whoever dials it there finds the wrong one
			break
		}
	}
	u.up = silent < len(addrs)
	err := n.ask(ctx, func(r *reign, _ *state.State) error {
		r.noteUnfoundLocked(c.ID, u)
		return nil
	})
	switch {
	case u.why == "":
		return err
	case !u.up:
		return refused(metapb.Reason_CODE_INVALID, "server %s was not found at %s, as seen from metadata node %s: %s. Check --listen, --advertise and the network between them", c.ID, u.addr, n.cfg.Name, u.why)
	}
	n.log.Warn("a memory server does not answer at one of its addresses", "server", c.ID, "addr", u.addr, "err", u.why)
	return err
}

// noteUnfoundLocked keeps what status says of a server that was dialled.
func (r *reign) noteUnfoundLocked(id raid.ServerID, u unfound) {
	delete(r.mu.unfound, id)
	for old, was := range r.mu.unfound {
		if !was.up && u.at.Sub(was.at) > toldFor {
			delete(r.mu.unfound, old)
		}
	}
	if u.why == "" || len(r.mu.unfound) >= maxUnfound {
		return
	}
	if r.mu.unfound == nil {
		r.mu.unfound = map[raid.ServerID]unfound{}
	}
	r.mu.unfound[id] = u
}

// unfoundLocked tells of servers that were not found lately.
func (r *reign) unfoundLocked(now time.Time) (out []*metapb.UnreachableServer) {
	for id, u := range r.mu.unfound {
		if u.up || now.Sub(u.at) <= toldFor {
			out = append(out, &metapb.UnreachableServer{Id: string(id), Addr: u.addr, Reason: u.why, Registered: u.up})
		}
	}
	slices.SortFunc(out, func(a, b *metapb.UnreachableServer) int { return cmp.Compare(a.Id, b.Id) })
	return out
}

// anotherError is that somebody else answers at a server's address.
type anotherError struct{ who string }

func (e anotherError) Error() string { return e.who + " answers there" }

func isAnother(err error) bool {
	_, is := errors.AsType[anotherError](err)
	return is
}

// dialBack looks whether a server is at one of its addresses.
func dialBack(ctx context.Context, addr string, c *state.Register, cluster string) error {
	id, incarnation, err := server.Who(ctx, addr, cluster)
	switch {
	case err != nil:
		return err
	case id != c.ID:
		return anotherError{"server " + clip(string(id))}
	case incarnation != c.Incarnation:
		return anotherError{"another process of server " + clip(string(id))}
	}
	return nil
}

// clip makes a name that a peer gave fit to be shown.
func clip(s string) string { return fmt.Sprintf("%.64q", s) }
