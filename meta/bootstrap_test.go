package meta

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"dmps/meta/state"
)

// Nodes that start at once and are stopped and started at any moment of
// forming become one cluster, never two.
func TestBootstrapWithRestarts(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			cfgs := threeConfigs(t)
			nodes := make([]*Node, 3)
			var wg sync.WaitGroup
			for i, cfg := range cfgs {
				pause := time.Duration(rng.IntN(800)) * time.Millisecond
				restarts := 1 + rng.IntN(2)
				wg.Go(func() {
					for range restarts {
						n, err := Start(t.Context(), cfg)
						if err != nil {
							t.Error(err)
							return
						}
						sleep(t.Context(), pause) // a fault at a moment that the seed chose
						if err := n.Close(); err != nil {
							t.Error(err)
						}
					}
					n, err := Start(t.Context(), cfg)
					if err != nil {
						t.Error(err)
						return
					}
					nodes[i] = n
				})
			}
			wg.Wait()
			if t.Failed() {
				return
			}
			for _, n := range nodes {
				t.Cleanup(func() { stop(t, n) })
			}
			waitReady(t, nodes...)
			for _, n := range nodes {
				if id := n.identity(); id.Cluster != nodes[0].identity().Cluster {
					t.Errorf("%s is in cluster %s, %s in %s", id.Name, id.Cluster, nodes[0].identity().Name, nodes[0].identity().Cluster)
				}
			}
			st, err := newClient(t, time.Minute, nodes...).Status(t.Context())
			if err != nil || len(st.Meta) != 3 {
				t.Errorf("%+v, %v", st, err)
			}
		})
	}
}

// A crash may leave the state file behind Raft's log, or behind a snapshot that
// had just arrived. Both are made good at the next start.
func TestStateBehindLogAndSnapshot(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "meta1")
	file := filepath.Join(cfg.Dir, "state.db")
	registered := func(n *Node) (count int) {
		t.Helper()
		if err := n.disks.state.View(func(s *state.State) { count = len(s.Servers) }); err != nil {
			t.Fatal(err)
		}
		return count
	}
	n := start(t, cfg)
	waitReady(t, n)
	registerServers(t, newClient(t, time.Minute, n), 2)
	stop(t, n)
	older, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}

	n = start(t, cfg)
	waitReady(t, n)
	registerServers(t, newClient(t, time.Minute, n), 7)
	stop(t, n)
	if err := os.WriteFile(file, older, 0o600); err != nil {
		t.Fatal(err)
	}
	n = start(t, cfg)
	waitReady(t, n)
	if got := registered(n); got != 7 {
		t.Errorf("behind the log: %d of 7 servers", got)
	}

	c := n.peer().raft.ReloadableConfig()
	c.TrailingLogs = 0
	if err := errors.Join(n.peer().raft.ReloadConfig(c), n.peer().raft.Snapshot().Error()); err != nil {
		t.Fatal(err)
	}
	stop(t, n)
	if err := os.WriteFile(file, older, 0o600); err != nil {
		t.Fatal(err)
	}
	n = start(t, cfg)
	waitReady(t, n)
	if got := registered(n); got != 7 {
		t.Errorf("behind the snapshot: %d of 7 servers", got)
	}
}

// An adoption that came while the node was looking around, and joined: it takes
// part already.
func TestTakingPartTwice(t *testing.T) {
	t.Parallel()
	a := start(t, testConfig(t, "meta1"))
	waitReady(t, a)
	cfg := testConfig(t, "meta2")
	cfg.Join = []string{a.APIURL()}
	b := start(t, cfg)
	waitReady(t, b)
	was := b.peer()
	if err := b.takePart(); err != nil || b.peer() != was {
		t.Errorf("Raft was started again: %v", err)
	}
	if _, err := newClient(t, time.Minute, b).Status(t.Context()); err != nil {
		t.Error(err)
	}
}

// A node looks around, is adopted meanwhile, sees that the cluster exists, and
// begins to join what it is a voter of already; then it learns that it adopted it.
func TestAdoptedWhileJoining(t *testing.T) {
	cfg := testConfig(t, "meta2")
	cfg.Join = []string{heldAddr(t)} // nobody: what it would see is told here
	n := start(t, cfg)
	err := n.setIdentity(func(id *identity) error { id.Cluster, id.Proposer = "c", "meta1-x"; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := n.startRaft(nil); err != nil { // as join does
		t.Fatal(err)
	}
	first := n.peer()
	if err := n.takePart(); err != nil {
		t.Fatal(err)
	}
	if n.peer() != first || !n.identity().Member {
		t.Errorf("Raft was started twice, or the node is no member: %+v", n.identity())
	}
}
