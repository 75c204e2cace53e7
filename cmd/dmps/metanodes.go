package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"dmps/client"
	"dmps/meta/metaclient"
)

// metaListCommand and metaLeaveCommand are about the metadata nodes that
// exist; `dmps meta` itself (meta.go) is one.
func (a *app) metaListCommand() *cobra.Command {
	var output choice
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "members"},
		Short:   "List the metadata nodes and say who leads, and who is behind",
		Long: `Lists the nodes of the metadata service. Each one is asked itself too: one that
does not answer, or whose disk holds another node, is no help when a majority is
counted; one that is behind has yet to hear what the leader decided. Before a node
is stopped, all others should be up.

While no node decides nobody knows all nodes: then it says of each address that it
was given whether a node answers there, and exits with 69.`,
		Example: "  dmps meta list\n  dmps meta members --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.list(cmd, output.value, "no metadata nodes",
				func(ctx context.Context, m *metaclient.Client) (any, *table, error) {
					members, err := m.Members(ctx)
					if errors.Is(err, client.ErrNoQuorum) {
						a.tellNodes(ctx, m)
					}
					nodes := askNodes(ctx, m, members)
					return nodes, nodeStateTable(nodes, paletteFor(a.out)), err
				})
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// tellNodes says which of the nodes that were named answer, when nobody can
// tell which there are.
func (a *app) tellNodes(ctx context.Context, m *metaclient.Client) {
	said := make([]string, len(a.urls()))
	var wg sync.WaitGroup
	for i, url := range a.urls() {
		wg.Go(func() {
			is, err := m.NodeInfo(ctx, url)
			switch {
			case err != nil:
				said[i] = nodeAway
			case is.Cluster == "":
				said[i] = "answers, and belongs to no cluster yet"
			default:
				said[i] = fmt.Sprintf("answers, has applied %d, cluster %s", is.Applied, is.Cluster)
			}
		})
	}
	wg.Wait()
	for i, url := range a.urls() {
		fmt.Fprintf(a.err, "%s: %s\n", url, said[i])
	}
}

// Node states, as `meta list` shows them.
const (
	nodeUp     = "up"
	nodeJoins  = "joining"    // it answers, and has no vote yet
	nodeBehind = "behind"     // it has not applied yet what the leader has
	nodeAway   = "no answer"  // dead, or cut off from here
	nodeOther  = "other node" // somebody else answers at its address: its disk was replaced
)

// nodeLimit is how long a status waits for nodes to answer for themselves.
const nodeLimit = time.Second

// silentNodes says which nodes do not answer here, and what that leaves; "": all do.
func silentNodes(nodes []nodeState) string {
	var silent []string
	voters, working := 0, 0
	for _, n := range nodes {
		down := n.State == nodeAway || n.State == nodeOther
		if down {
			silent = append(silent, n.Name)
		}
		if n.Voter {
			voters++
			if !down {
				working++
			}
		}
	}
	if len(silent) == 0 {
		return ""
	}
	left := max(working-(voters/2+1), 0)
	text := fmt.Sprintf("no answer from metadata node %s", strings.Join(silent, ", "))
	if left == 0 {
		return text + ": when one more fails, nothing can be decided"
	}
	return text + fmt.Sprintf(": %d more may fail", left)
}

// nodeState is a member as it answers itself.
type nodeState struct {
	metaclient.Node
	State   string `json:"state"`
	Applied uint64 `json:"applied"` // index of the last command in its state; 0: no answer
}

// nodeLag is how far behind the leader a node that works may be: it hears of a
// decision with the next message after it.
const nodeLag = 500 * time.Millisecond

// askNodes asks all members at once, and those that are behind once more:
// behind is who does not have now what the leader had before.
func askNodes(ctx context.Context, m *metaclient.Client, members []metaclient.Node) []nodeState {
	nodes := make([]nodeState, len(members))
	for i, n := range members {
		nodes[i].Node = n
	}
	askEach(ctx, m, nodes, func(*nodeState) bool { return true })
	var newest uint64
	for _, n := range nodes {
		if n.Leader {
			newest = n.Applied
		}
	}
	behind := func(n *nodeState) bool { return n.State == nodeUp && n.Applied < newest }
	if !slices.ContainsFunc(nodes, func(n nodeState) bool { return behind(&n) }) || pause(ctx, nodeLag) != nil {
		return nodes
	}
	askEach(ctx, m, nodes, behind)
	for i := range nodes {
		if behind(&nodes[i]) {
			nodes[i].State = nodeBehind
		}
	}
	return nodes
}

// voting counts the nodes that vote.
func voting(nodes []metaclient.Node) (n int) {
	for _, m := range nodes {
		if m.Voter {
			n++
		}
	}
	return n
}

// askEach asks those nodes that are wanted what they are.
func askEach(ctx context.Context, m *metaclient.Client, nodes []nodeState, wanted func(*nodeState) bool) {
	var wg sync.WaitGroup
	for i := range nodes {
		n := &nodes[i]
		if !wanted(n) {
			continue
		}
		wg.Go(func() {
			is, err := m.NodeInfo(ctx, n.APIURL)
			switch {
			case err != nil:
				n.State, n.Applied = nodeAway, 0
			case is.ID != n.ID:
				n.State, n.Applied = nodeOther, 0
			case !n.Voter:
				n.State, n.Applied = nodeJoins, is.Applied
			default:
				n.State, n.Applied = nodeUp, is.Applied
			}
		})
	}
	wg.Wait()
}

func nodeTable(nodes []metaclient.Node, p palette) *table {
	var t table
	t.row(p.head("META", "ROLE", "API", "RAFT")...)
	for _, n := range nodes {
		role := "follower"
		switch {
		case n.Leader:
			role = "leader"
		case !n.Voter:
			role = "no voter"
		}
		t.row(n.Name, role, n.APIURL, n.RaftAddr)
	}
	return &t
}

func nodeStateTable(nodes []nodeState, p palette) *table {
	plain := make([]metaclient.Node, len(nodes))
	for i, n := range nodes {
		plain[i] = n.Node
	}
	t := nodeTable(plain, p)
	t.rows[0] = append(t.rows[0], p.head("STATE", "APPLIED")...)
	for i, n := range nodes {
		colour := colourBad
		switch n.State {
		case nodeUp:
			colour = colourGood
		case nodeBehind, nodeJoins:
			colour = colourWarn
		}
		t.rows[i+1] = append(t.rows[i+1], p.paint(colour, n.State), strconv.FormatUint(n.Applied, 10))
	}
	return t
}

// nodeNames lists what completions offer.
func nodeNames(ctx context.Context, m *metaclient.Client) ([]string, error) {
	nodes, err := m.Members(ctx)
	var names []string
	for _, n := range nodes {
		names = append(names, n.Name+"\t"+n.APIURL)
	}
	return names, err
}

func (a *app) metaLeaveCommand() *cobra.Command {
	var (
		output choice
		yes    consent
	)
	cmd := &cobra.Command{
		Use:     "leave NAME",
		Aliases: []string{"remove"},
		Short:   "Take a metadata node out of the cluster for good",
		Long: `Takes a node out of the cluster, alive or not. The others count majorities
without it from then on. Its process ends, or learns it when it is started again;
its folder is of no more use. The last node cannot leave, and none while too few of
the others answer: nothing could be decided any more. One that is dead can.

To replace a node whose disk is lost, this is not needed: start it with the same
--id, an empty folder and --join.`,
		Example:           "  dmps meta leave meta3\n  dmps meta leave meta3 --yes",
		Args:              exactArgs("NAME"),
		ValidArgsFunction: a.completeNames(nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.meta()
			if err != nil {
				return err
			}
			defer m.Close()
			ctx := cmd.Context()
			before, err := m.Members(ctx)
			if err != nil {
				return err
			}
			node, rest, found := without(before, args[0])
			if !found {
				return fmt.Errorf("metadata node %s: %w", args[0], metaclient.ErrNotFound)
			}
			if err := yes.ask(a, "take metadata node "+node.Name+" out of the cluster for good", survives(voting(rest))); err != nil {
				return err
			}
			if err := m.Leave(ctx, node.ID); err != nil {
				return err
			}
			if output.value == "json" {
				return printJSON(a.out, struct {
					Left metaclient.Node   `json:"left"`
					Rest []metaclient.Node `json:"meta"`
				}{node, emptyNotNull(rest)})
			}
			_, err = fmt.Fprintf(a.out, "%s has left. %s\n", node.Name, survives(voting(rest)))
			return err
		},
	}
	outputFlag(cmd, &output)
	yes.flag(cmd)
	return cmd
}

// without takes the node of a name or id out of a list.
func without(nodes []metaclient.Node, name string) (node metaclient.Node, rest []metaclient.Node, found bool) {
	for _, n := range nodes {
		if !found && (n.Name == name || n.ID == name) {
			node, found = n, true
			continue
		}
		rest = append(rest, n)
	}
	return node, rest, found
}

// survives says what so many metadata nodes can bear.
func survives(nodes int) string {
	switch bear := (nodes - 1) / 2; {
	case nodes == 1:
		return "1 node is left: when it fails nothing is decided."
	case nodes == 2:
		return "2 nodes are left, which survive no failure: add one."
	case nodes%2 == 0:
		return fmt.Sprintf("%d nodes are left, which survive the failure of %d, as %d would: add one, or let one more leave.", nodes, bear, nodes-1)
	default:
		return fmt.Sprintf("%d nodes are left, which survive the failure of %d.", nodes, bear)
	}
}
