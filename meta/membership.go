package meta

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/hashicorp/raft"

	"dmps/meta/metapb"
	"dmps/meta/state"
)

// How nodes come and go. One wrong change of Raft's configuration ends all
// decisions for good: a voter that nobody reaches, or a living one that is removed
// instead of a dead one. So a node comes without a vote, at addresses where the
// leader found it; it votes once it has answered for a while and holds what was
// decided; and no change is made after which fewer than a majority would answer.
// Each change names the configuration that it was checked against, so that of two
// at a time one fails (Node.change).
const (
	askLimit     = 2 * time.Second // for a node to answer
	promoteEvery = 500 * time.Millisecond
)

// configuration gives Raft's.
func (n *Node) configuration(ctx context.Context, p *peer) ([]raft.Server, error) {
	f := p.raft.GetConfiguration()
	if err := n.await(ctx, f); err != nil {
		return nil, err
	}
	return f.Configuration().Servers, nil
}

// change changes Raft's configuration by do, if it is still the one that the change was
// checked against; else nothing is done, and the caller is to try again. Raft compares
// indexes for that, but does not tell them: those of its GetConfiguration are always 0.
func (n *Node) change(ctx context.Context, p *peer, checked []raft.Server, do func() error) error {
	n.changing.Lock() // do is bounded
	defer n.changing.Unlock()
	now, err := n.configuration(ctx, p)
	if err != nil {
		return err
	}
	if !slices.Equal(now, checked) {
		return refused(metapb.Reason_CODE_NO_QUORUM, "the metadata nodes are being changed by somebody else at this moment: nothing was changed, try again")
	}
	return do()
}

// admit lets a node in, or notes where it is now.
func (n *Node) admit(ctx context.Context, p *peer, node state.Node, process string, known bool) error {
	servers, err := n.configuration(ctx, p)
	if err != nil {
		return err
	}
	want := raft.Server{ID: raft.ServerID(node.ID), Address: peerAddress(node.Raft, node.ID)}
	at := slices.IndexFunc(servers, func(v raft.Server) bool { return v.ID == want.ID })
	var record *state.Node
	if err := n.disks.state.View(func(s *state.State) { record = s.Nodes[node.ID] }); err != nil {
		return err
	}
	switch {
	case at < 0 && known:
		return refused(metapb.Reason_CODE_NOT_FOUND, "node %s is no member of this cluster any more", node.ID)
	case at < 0:
		if err := n.retire(ctx, p, servers, node); err != nil {
			return err
		}
		if servers, err = n.configuration(ctx, p); err != nil {
			return err
		}
	default: // also at the addresses that are known: a clone may have them too
		if where := n.elsewhere(ctx, p, servers[at], record, process); where != "" {
			return refused(metapb.Reason_CODE_ID_IN_USE, "node %s still runs at %s: this one, at %s, has a copy of its folder. Stop it there, or start this one with a new --id and an empty folder", node.ID, where, node.Raft)
		}
		if servers[at].Address == want.Address && record != nil && *record == node {
			return nil
		}
	}
	if err := n.reachable(ctx, p, node, process); err != nil {
		return err
	}
	return n.change(ctx, p, servers, func() error { // together, or forgetStrays would forget the record
		if record == nil || *record != node {
			if _, err := n.propose(ctx, &state.Command{PutNode: &node}); err != nil {
				return err
			}
		}
		if at >= 0 && servers[at].Address == want.Address {
			return nil
		}
		n.log.Info("a node joins", "id", node.ID, "raft", node.Raft)
		return n.await(ctx, p.raft.AddNonvoter(want.ID, want.Address, 0, enqueueTimeout)) // of a voter it changes the address alone
	})
}

// forgetStrays removes records of nodes that are no members: a leader was lost between the
// record and the change of Raft's configuration, in which they are let in or removed.
// They would count against the most nodes that a cluster has.
func (n *Node) forgetStrays(ctx context.Context, p *peer, servers []raft.Server) {
	var strays []string
	err := n.disks.state.View(func(s *state.State) {
		for id := range s.Nodes {
			if !slices.ContainsFunc(servers, func(v raft.Server) bool { return string(v.ID) == id }) {
				strays = append(strays, id)
			}
		}
	})
	if err != nil || len(strays) == 0 {
		return
	}
	err = n.change(ctx, p, servers, func() error {
		for _, id := range strays {
			if _, err := n.propose(ctx, &state.Command{RemoveNode: &state.RemoveNode{ID: id}}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		n.log.Warn("forgetting nodes that are no members", "ids", strays, "err", err)
	} else {
		n.log.Info("forgot nodes that are no members", "ids", strays)
	}
}

// elsewhere says where another process of a node answers than the one that asks;
// "": nowhere.
func (n *Node) elsewhere(ctx context.Context, p *peer, was raft.Server, record *state.Node, process string) string {
	var wg sync.WaitGroup
	var api, peerAt string
	if record != nil {
		wg.Go(func() {
			if is, err := n.whoAt(ctx, record.API); err == nil && is.Id == record.ID && is.Process != process {
				api = record.API
			}
		})
	}
	wg.Go(func() {
		if is, err := p.ask(was.Address); err == nil && is != process {
			peerAt, _ = splitPeerAddress(was.Address)
		}
	})
	wg.Wait()
	return strings.Trim(api+" "+peerAt, " ")
}

// reachable refuses a node that does not answer this one where it says that it is:
// as a voter it would be needed and missing, as a leader not be found.
func (n *Node) reachable(ctx context.Context, p *peer, node state.Node, process string) error {
	is, err := n.whoAt(ctx, node.API)
	if err == nil && (is.Id != node.ID || is.Process != process) {
		err = fmt.Errorf("node %s answers there", is.Id)
	}
	if err != nil {
		return refused(metapb.Reason_CODE_INVALID, "node %s does not answer at its API address %s, as seen from %s: check --api, --api-advertise and the network between them (%v)", node.ID, node.API, n.cfg.Name, err)
	}
	got, err := p.ask(peerAddress(node.Raft, node.ID))
	if err == nil && got != process {
		err = errors.New("another process of this node answers there")
	}
	if err != nil {
		return refused(metapb.Reason_CODE_INVALID, "node %s does not answer at its address for other nodes, %s, as seen from %s: check --raft, --raft-advertise and the network between them (%v)", node.ID, node.Raft, n.cfg.Name, err)
	}
	return nil
}

// whoAt asks who has an API address.
func (n *Node) whoAt(ctx context.Context, url string) (*metapb.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	res, err := n.clusterAt(url).GetNode(ctx, connect.NewRequest(&metapb.GetNodeRequest{}))
	if err != nil {
		return nil, err
	}
	if res.Msg.Node == nil {
		return nil, errors.New("no metadata node answers there")
	}
	return res.Msg.Node, nil
}

// notACopy refuses to begin while another process has this node's identity, where
// the node was before: two that answer to one name could vote twice.
func (n *Node) notACopy() error {
	id := n.identity()
	var was *state.Node
	if err := n.disks.state.View(func(s *state.State) { was = s.Nodes[id.ID] }); err != nil {
		return err
	}
	if was == nil {
		return nil
	}
	if is, err := n.whoAt(n.ctx, was.API); err == nil && is.Id == id.ID && is.Process != n.process {
		return fmt.Errorf("node %s still runs at %s: folder %s is a copy of its. Stop it there, or start this one with a new --id and an empty folder", id.ID, was.API, n.cfg.Dir)
	}
	return nil
}

// ask asks which process answers at a node's address.
func (p *peer) ask(a raft.ServerAddress) (process string, err error) {
	if p.layer == nil {
		return "", errors.New("this node is on no network") // tests
	}
	return p.layer.ask(a, askLimit)
}

// retire removes the older self of a node that comes with an empty disk. Raft
// would lose votes if it let the new one answer for it. An older self that
// answers keeps its name.
func (n *Node) retire(ctx context.Context, p *peer, servers []raft.Server, node state.Node) error {
	for _, v := range servers {
		if nameOf(string(v.ID)) != node.Name {
			continue
		}
		if _, err := p.ask(v.Address); err == nil {
			where, _ := splitPeerAddress(v.Address)
			return refused(metapb.Reason_CODE_ID_IN_USE, "node %s lives at %s: choose another --id", node.Name, where)
		}
		n.log.Warn("a node comes back with an empty disk", "old", v.ID, "new", node.ID)
		return n.dismiss(ctx, p, servers, v)
	}
	return nil
}

// leave removes the node of a name or id. One that is gone already is no error.
func (n *Node) leave(ctx context.Context, p *peer, name string) error {
	servers, err := n.configuration(ctx, p)
	if err != nil {
		return err
	}
	for _, v := range servers {
		if string(v.ID) != name && nameOf(string(v.ID)) != name {
			continue
		}
		if v.Suffrage == raft.Voter && len(votersOf(servers)) == 1 {
			return refused(metapb.Reason_CODE_INVALID, "node %s is the last of the cluster: stop it instead", nameOf(string(v.ID)))
		}
		return n.dismiss(ctx, p, servers, v)
	}
	return nil
}

func votersOf(servers []raft.Server) (out []raft.Server) {
	for _, v := range servers {
		if v.Suffrage == raft.Voter {
			out = append(out, v)
		}
	}
	return out
}

// dismiss removes a node.
func (n *Node) dismiss(ctx context.Context, p *peer, servers []raft.Server, v raft.Server) error {
	if v.Suffrage == raft.Voter {
		rest := slices.DeleteFunc(votersOf(servers), func(o raft.Server) bool { return o.ID == v.ID })
		if err := n.majority(p, "without "+nameOf(string(v.ID)), rest); err != nil {
			return err
		}
	}
	return n.change(ctx, p, servers, func() error {
		if _, err := n.propose(ctx, &state.Command{RemoveNode: &state.RemoveNode{ID: string(v.ID)}}); err != nil {
			return err
		}
		if err := n.await(ctx, p.raft.RemoveServer(v.ID, 0, enqueueTimeout)); err != nil {
			return fmt.Errorf("%w (%v)", errUnknownOutcome, err) // half of it is done
		}
		return nil
	})
}

// majority refuses a change after which those voters that answer would be too few
// to decide. Who removes a dead node always passes: that a leader asks shows that a
// majority answers.
func (n *Node) majority(p *peer, change string, voters []raft.Server) error {
	silent := make([]string, len(voters))
	var wg sync.WaitGroup
	for i, v := range voters {
		if string(v.ID) == n.identity().ID {
			continue
		}
		wg.Go(func() {
			if _, err := p.ask(v.Address); err != nil {
				silent[i] = nameOf(string(v.ID))
			}
		})
	}
	wg.Wait()
	silent = slices.DeleteFunc(silent, func(s string) bool { return s == "" })
	if 2*len(silent) < len(voters) {
		return nil
	}
	return refused(metapb.Reason_CODE_NO_MAJORITY, "%s the metadata would have %d voting nodes, of which %s cannot be reached now: nothing could be decided any more. Nothing was changed: start them again, or remove them first",
		change, len(voters), strings.Join(silent, ", "))
}

// probation is since when nodes without a vote answer, without a gap.
type probation map[raft.ServerID]time.Time

// passed notes whether a node answers now, and reports whether it has for long enough.
func (p probation) passed(id raft.ServerID, answers bool, now time.Time, enough time.Duration) bool {
	if !answers {
		delete(p, id)
		return false
	}
	if _, ok := p[id]; !ok {
		p[id] = now
	}
	return now.Sub(p[id]) >= enough
}

// promote forgets nodes that are no members, and gives nodes that were let in their vote, once they answered for a while
// without a gap, until the reign ends. No majority is lost by that: most of the others
// answer, since this node leads, and so does the new one.
func (n *Node) promote(ctx context.Context, p *peer) {
	waits := probation{}
	before := n.disks.state.Applied()
	for sleep(ctx, promoteEvery) {
		servers, err := n.configuration(ctx, p)
		if err != nil {
			continue
		}
		n.forgetStrays(ctx, p, servers)
		had := before
		before = n.disks.state.Applied()
		for _, v := range servers {
			answers := v.Suffrage == raft.Nonvoter && n.caughtUp(ctx, p, v, had)
			if !waits.passed(v.ID, answers, time.Now(), n.cfg.promoteAfter) {
				continue
			}
			err := n.change(ctx, p, servers, func() error {
				return n.await(ctx, p.raft.AddVoter(v.ID, v.Address, 0, enqueueTimeout))
			})
			if err != nil {
				n.log.Warn("giving a node its vote", "id", v.ID, "err", err)
			} else {
				n.log.Info("a node that joined votes from now on", "id", v.ID)
			}
			break // the configuration is another one now
		}
	}
}

// caughtUp reports whether a node answers at both of its addresses and holds what
// the leader had some time ago.
func (n *Node) caughtUp(ctx context.Context, p *peer, v raft.Server, had uint64) bool {
	var record *state.Node
	if err := n.disks.state.View(func(s *state.State) { record = s.Nodes[string(v.ID)] }); err != nil || record == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	res, err := n.clusterAt(record.API).GetNode(ctx, connect.NewRequest(&metapb.GetNodeRequest{}))
	if err != nil || res.Msg.GetNode().GetId() != string(v.ID) || res.Msg.Applied < had {
		return false
	}
	process, err := p.ask(v.Address)
	return err == nil && process == res.Msg.Node.Process
}
