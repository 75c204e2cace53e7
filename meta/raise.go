package meta

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"connectrpc.com/connect"
	"github.com/hashicorp/raft"

	"dmps/meta/level"
	"dmps/meta/metapb"
	"dmps/meta/state"
)

// knowsLevel refuses a node that does not know the cluster's level: what it skipped
// would make it differ from the others.
func (n *Node) knowsLevel(node state.Node) error {
	var err error
	if unusable := n.disks.state.View(func(s *state.State) { err = node.Build.Check("the cluster", s.Level, s.LevelBy) }); unusable != nil {
		return unusable
	}
	if err != nil {
		return refused(metapb.Reason_CODE_LEVEL, "node %s cannot take part: %v", node.Name, err)
	}
	return nil
}

func (a clusterAPI) RaiseLevel(ctx context.Context, req *connect.Request[metapb.RaiseLevelRequest]) (*connect.Response[metapb.RaiseLevelResponse], error) {
	was, is, err := a.n.raise(ctx, level.Level(req.Msg.To))
	return answer(&metapb.RaiseLevelResponse{Was: uint32(was), Level: uint32(is)}, err)
}

// raise raises the cluster's level; to 0: to the highest that any node knows. Each node is
// asked now: what it said when it joined may be of another version than what runs.
func (n *Node) raise(ctx context.Context, to level.Level) (was, is level.Level, err error) {
	_, p, err := n.leading(ctx)
	if err != nil {
		return 0, 0, err
	}
	nodes, strays, err := n.builds(ctx, p)
	if err != nil {
		return 0, 0, err
	}
	was = n.disks.state.Level()
	if to == 0 {
		to = was
		for _, o := range nodes {
			to = max(to, o.build.Highest)
		}
	}
	if to == was {
		return was, was, nil
	}
	var not []string
	for _, o := range nodes {
		switch {
		case o.silent:
			not = append(not, o.name+" does not answer: start it, or have it leave")
		case !o.build.Knows(to):
			not = append(not, fmt.Sprintf("%s: %v: install a version there that knows level %d", o.name, o.build, to))
		}
	}
	if to > was && len(not) > 0 {
		return 0, 0, refused(metapb.Reason_CODE_LEVEL, "the cluster stays at level %d: not all metadata nodes are known to know level %d. %s", was, to, strings.Join(not, ". "))
	}
	for _, o := range nodes { // that were replaced by another version and did not come to say so
		if o.record != nil && o.record.Build != o.build {
			record := *o.record
			record.Build = o.build
			if _, err := n.propose(ctx, &state.Command{PutNode: &record}); err != nil {
				return 0, 0, err
			}
		}
	}
	for _, o := range strays {
		if !o.Build.Knows(to) {
			if _, err := n.propose(ctx, &state.Command{RemoveNode: &state.RemoveNode{ID: o.ID}}); err != nil {
				return 0, 0, err
			}
		}
	}
	if _, err := n.propose(ctx, &state.Command{Raise: &state.Raise{To: to, By: n.cfg.build.Version}}); err != nil {
		return 0, 0, err
	}
	n.log.Info("the cluster was raised to another level", "was", was, "level", to)
	return was, to, nil
}

// nodeBuild is what a node says that it knows.
type nodeBuild struct {
	name   string
	record *state.Node // nil: it never said where it is
	build  level.Build
	silent bool
}

// builds asks all nodes of Raft's configuration, voters or not. Strays are records of
// nodes that began to join and were not let in.
func (n *Node) builds(ctx context.Context, p *peer) (out []nodeBuild, strays []state.Node, err error) {
	servers, err := n.configuration(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	out = make([]nodeBuild, len(servers))
	err = n.disks.state.View(func(s *state.State) {
		for i, v := range servers {
			out[i] = nodeBuild{name: nameOf(string(v.ID)), record: s.Nodes[string(v.ID)]}
		}
		for id, record := range s.Nodes {
			if !slices.ContainsFunc(servers, func(v raft.Server) bool { return string(v.ID) == id }) {
				strays = append(strays, *record)
			}
		}
	})
	if err != nil {
		return nil, nil, err
	}
	var wg sync.WaitGroup
	for i, v := range servers {
		o := &out[i]
		if string(v.ID) == n.identity().ID {
			o.build = n.cfg.build
			continue
		}
		if o.record == nil {
			o.silent = true
			continue
		}
		wg.Go(func() {
			is, err := n.whoAt(ctx, o.record.API)
			o.silent = err != nil || is.Id != string(v.ID)
			o.build = buildFrom(is.GetBuild())
		})
	}
	wg.Wait()
	return out, strays, nil
}
