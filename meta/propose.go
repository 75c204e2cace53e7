package meta

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"dmps/meta/state"
	"dmps/meta/store"
)

// Errors of a proposal, beside *state.Refusal.
var (
	errNoQuorum       = errors.New("the metadata service has no leader, or too few of its nodes are alive to decide: nothing was changed, paging goes on, try again later")
	errUnknownOutcome = errors.New("the decision was not confirmed in time: it may or may not have been made")
)

const (
	enqueueTimeout = time.Second
	commitTimeout  = 4 * time.Second // shorter than a client's patience with one node
)

// propose has a command decided and carried out, and gives its result. Only a
// leader can. What is above the cluster's level is refused before. Errors: *state.Refusal, errNoQuorum, errUnknownOutcome.
func (n *Node) propose(ctx context.Context, c *state.Command) (any, error) {
	p := n.peer()
	if p == nil {
		return nil, errNoQuorum
	}
	if refusal := c.Check(); refusal != nil {
		return nil, refusal
	}
	c.Now = time.Now().UnixMilli()
	data, err := c.Encode(n.disks.state.Level())
	if err != nil {
		return nil, err
	}
	f := p.raft.Apply(data, enqueueTimeout)
	if err := n.await(ctx, f); err != nil {
		return nil, err
	}
	r, ok := f.Response().(store.Result)
	switch {
	case !ok:
		return nil, errUnknownOutcome
	case errors.Is(r.Err, store.ErrStopped):
		n.fail(r.Err)
		return nil, errUnknownOutcome
	}
	return r.Value, r.Err
}

// await waits for one of Raft's futures, for a bounded time.
func (n *Node) await(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	n.asked.Add(1)
	go func() { // ends at the latest when Raft shuts down (settle)
		defer n.asked.Add(-1)
		done <- f.Error()
	}()
	limit := time.NewTimer(commitTimeout)
	defer limit.Stop()
	select {
	case err := <-done:
		return raftError(err)
	case <-limit.C:
	case <-ctx.Done():
	}
	return errUnknownOutcome
}

// raftError tells what was certainly not decided from what may have been.
func raftError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrEnqueueTimeout), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return errNoQuorum
	}
	return errors.Join(errUnknownOutcome, err)
}

// settle waits, for a bounded time, until Raft has answered what it was asked:
// what came while its log waited for room would stay without an answer when
// Raft is shut down at once.
func (n *Node) settle() {
	for end := time.Now().Add(enqueueTimeout); n.asked.Load() > 0 && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
}
