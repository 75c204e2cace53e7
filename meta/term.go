package meta

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// maxTermJump is by how much a term may be ahead of what this node knows. Terms count
// elections: no cluster sees as many while a node is away.
const maxTermJump = 1 << 32

// termGuard refuses messages that no node of this cluster sends, and that Raft does not
// survive. A node takes over whatever term it hears of, for good, and tells the others: one
// message with the last of all terms would end elections for ever. A configuration that
// cannot be decoded ends the process.
type termGuard struct {
	*raft.NetworkTransport
	known    atomic.Uint64 // highest term that was believed
	accepted chan raft.RPC
	done     chan struct{}
	once     sync.Once
	wg       sync.WaitGroup
}

// guardTerms takes over the transport of a node whose term is known.
func guardTerms(t *raft.NetworkTransport, known uint64) *termGuard {
	g := &termGuard{NetworkTransport: t, accepted: make(chan raft.RPC), done: make(chan struct{})}
	g.known.Store(known)
	g.wg.Go(g.filter)
	return g
}

// believe takes note of a term, or says why it cannot be.
func (g *termGuard) believe(term uint64) error {
	for {
		known := g.known.Load()
		switch {
		case term <= known:
			return nil
		case term-known > maxTermJump:
			return fmt.Errorf("term %d cannot be: this node knows of term %d", term, known)
		case g.known.CompareAndSwap(known, term):
			return nil
		}
	}
}

// check is believe for what arrives.
func (g *termGuard) check(rpc raft.RPC) error {
	switch c := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		for _, e := range c.Entries {
			if e.Type != raft.LogConfiguration {
				continue
			}
			if err := checkConfiguration(e.Data); err != nil {
				return err
			}
		}
		return g.believe(c.Term)
	case *raft.RequestVoteRequest:
		return g.believe(c.Term)
	case *raft.RequestPreVoteRequest:
		return g.believe(c.Term)
	case *raft.InstallSnapshotRequest:
		if c.SnapshotVersion < raft.SnapshotVersionMax {
			return fmt.Errorf("a snapshot of version %d is not known", c.SnapshotVersion)
		}
		if err := checkConfiguration(c.Configuration); err != nil {
			return err
		}
		return g.believe(c.Term)
	}
	return nil
}

// checkConfiguration says that a configuration cannot be decoded: Raft would end the process.
func checkConfiguration(b []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a configuration that cannot be: %v", p)
		}
	}()
	raft.DecodeConfiguration(b)
	return nil
}

func (g *termGuard) filter() {
	for {
		select {
		case rpc := <-g.NetworkTransport.Consumer():
			if err := g.check(rpc); err != nil {
				rpc.Respond(nil, err)
				continue
			}
			select {
			case g.accepted <- rpc:
			case <-g.done:
				return
			}
		case <-g.done:
			return
		}
	}
}

// Consumer implements raft.Transport.
func (g *termGuard) Consumer() <-chan raft.RPC { return g.accepted }

// SetHeartbeatHandler implements raft.Transport.
func (g *termGuard) SetHeartbeatHandler(handle func(raft.RPC)) {
	if handle == nil {
		g.NetworkTransport.SetHeartbeatHandler(nil)
		return
	}
	g.NetworkTransport.SetHeartbeatHandler(func(rpc raft.RPC) {
		if err := g.check(rpc); err != nil {
			rpc.Respond(nil, err)
			return
		}
		handle(rpc)
	})
}

// RequestVote implements raft.Transport.
func (g *termGuard) RequestVote(id raft.ServerID, to raft.ServerAddress, q *raft.RequestVoteRequest, a *raft.RequestVoteResponse) error {
	if err := g.NetworkTransport.RequestVote(id, to, q, a); err != nil {
		return err
	}
	return g.believe(max(q.Term, a.Term))
}

// RequestPreVote implements raft.WithPreVote.
func (g *termGuard) RequestPreVote(id raft.ServerID, to raft.ServerAddress, q *raft.RequestPreVoteRequest, a *raft.RequestPreVoteResponse) error {
	if err := g.NetworkTransport.RequestPreVote(id, to, q, a); err != nil {
		return err
	}
	return g.believe(a.Term)
}

// Close implements raft.WithClose.
func (g *termGuard) Close() error {
	err := g.NetworkTransport.Close()
	g.once.Do(func() { close(g.done) })
	g.wg.Wait()
	return err
}
