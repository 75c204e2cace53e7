package meta

import (
	"log/slog"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/hashicorp/raft"

	"dmps/client"
	"dmps/meta/metaclient"
	"dmps/meta/metapb"
	"dmps/meta/metapb/metapbconnect"
	"dmps/raid"
)

// One message with an absurd term, from anybody who reaches the port, ends no election.
func TestAbsurdTermsAreRefused(t *testing.T) {
	nodes := startAll(t, threeConfigs(t))
	c := newClient(t, time.Minute, nodes...)
	registerServers(t, c, 2)
	get := func(n *Node) *metapb.GetNodeResponse {
		res, err := metapbconnect.NewClusterServiceClient(http.DefaultClient, n.APIURL()).GetNode(t.Context(), connect.NewRequest(&metapb.GetNodeRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		return res.Msg
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	first := get(nodes[0])
	outsider := networkTransport(newStreamLayer(l, peerAddress("127.0.0.1:9", "evil-aaaaaaaa"), identity{Cluster: first.Cluster}, "p", nil), nodes[0].raftLog)
	defer func() { _ = outsider.Close() }()
	for i, n := range nodes {
		m := get(n).Node
		to, as := peerAddress(m.RaftAddr, m.Id), nodes[(i+1)%len(nodes)].identity().ID
		head := raft.RPCHeader{ProtocolVersion: 3, ID: []byte(as), Addr: []byte("127.0.0.1:9/" + as)}
		const term = math.MaxUint64 - 1
		sent := map[string]error{
			"vote": outsider.RequestVote(raft.ServerID(m.Id), to, &raft.RequestVoteRequest{
				RPCHeader: head, Term: term, LastLogIndex: math.MaxUint64, LastLogTerm: term, LeadershipTransfer: true}, &raft.RequestVoteResponse{}),
			"pre-vote": outsider.RequestPreVote(raft.ServerID(m.Id), to, &raft.RequestPreVoteRequest{
				RPCHeader: head, Term: term, LastLogIndex: math.MaxUint64, LastLogTerm: term}, &raft.RequestPreVoteResponse{}),
			"heartbeat": outsider.AppendEntries(raft.ServerID(m.Id), to, &raft.AppendEntriesRequest{
				RPCHeader: head, Term: term}, &raft.AppendEntriesResponse{}),
			"entries": outsider.AppendEntries(raft.ServerID(m.Id), to, &raft.AppendEntriesRequest{
				RPCHeader: head, Term: term, PrevLogEntry: 7, PrevLogTerm: term}, &raft.AppendEntriesResponse{}),
			"snapshot": outsider.InstallSnapshot(raft.ServerID(m.Id), to, &raft.InstallSnapshotRequest{
				RPCHeader: head, SnapshotVersion: 1, Configuration: raft.EncodeConfiguration(raft.Configuration{}), Term: term, LastLogIndex: 7, Size: 1}, &raft.InstallSnapshotResponse{}, strings.NewReader("x")),
		}
		config := []raft.Log{{Type: raft.LogConfiguration, Data: []byte("x")}}
		undecodable := map[string]error{
			"entry": outsider.AppendEntries(raft.ServerID(m.Id), to, &raft.AppendEntriesRequest{
				RPCHeader: head, Term: 1, Entries: []*raft.Log{&config[0]}}, &raft.AppendEntriesResponse{}),
			"snapshot": outsider.InstallSnapshot(raft.ServerID(m.Id), to, &raft.InstallSnapshotRequest{
				RPCHeader: head, SnapshotVersion: 1, Term: 1, LastLogIndex: 7, Size: 1, Configuration: []byte("x")}, &raft.InstallSnapshotResponse{}, strings.NewReader("x")),
			"old snapshot": outsider.InstallSnapshot(raft.ServerID(m.Id), to, &raft.InstallSnapshotRequest{
				RPCHeader: head, Configuration: raft.EncodeConfiguration(raft.Configuration{}), Peers: []byte("x"), Term: 1, LastLogIndex: 7, Size: 1}, &raft.InstallSnapshotResponse{}, strings.NewReader("x")),
		}
		for what, err := range undecodable {
			if err == nil {
				t.Errorf("%s: an %s with a configuration that cannot be decoded is taken", m.Id, what)
			}
		}
		for what, err := range sent {
			if err == nil || !strings.Contains(err.Error(), "cannot be") {
				t.Errorf("%s: a %s of term 2^64-2 is answered: %v", m.Id, what, err)
			}
		}
		if now := n.peer().raft.CurrentTerm(); now > maxTermJump {
			t.Errorf("%s is in term %d", m.Id, now)
		}
	}
	if _, err := c.CreateVolume(t.Context(), metaclient.VolumeSpec{Name: "w", Size: 16 << 20, Redundancy: raid.Geometry{K: 1}}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// What a peer answers is believed as little.
func TestBelievedTerms(t *testing.T) {
	g := &termGuard{}
	g.known.Store(7)
	for _, c := range []struct {
		term, known uint64
		ok          bool
	}{
		{3, 7, true}, {8, 8, true}, {8 + maxTermJump, 8 + maxTermJump, true},
		{9 + 2*maxTermJump, 8 + maxTermJump, false}, {math.MaxUint64, 8 + maxTermJump, false},
	} {
		if err := g.believe(c.term); (err == nil) != c.ok || g.known.Load() != c.known {
			t.Errorf("term %d: %v, known %d", c.term, err, g.known.Load())
		}
	}
}

// What is long, or would drive a terminal, is not written to the log.
func TestWhatIsSaidIsBounded(t *testing.T) {
	n := start(t, testConfig(t, "meta1"))
	waitReady(t, n)
	c := newClient(t, time.Minute, n)
	registerServers(t, c, 3)
	if _, err := c.CreateVolume(t.Context(), metaclient.VolumeSpec{Name: "v", Size: 16 << 20, Redundancy: raid.Geometry{K: 1}}); err != nil {
		t.Fatal(err)
	}
	last := n.peer().raft.LastIndex()
	big := strings.Repeat("A", 1<<20)
	ghost, labelled := serverInfo(7, 1), serverInfo(8, 1)
	ghost.ID = "ghost\x1b]0;pwned\x07\x1b[2J"
	labelled.Labels = map[string]string{"rack": big}
	_, _, attached := c.Attach(t.Context(), client.AttachRequest{Volume: "v", Holder: "a", AdminURL: big})
	for what, err := range map[string]error{
		"an admin URL of 1 MiB": attached, "escape codes for an id": c.Register(t.Context(), ghost), "a label of 1 MiB": c.Register(t.Context(), labelled),
	} {
		if err == nil {
			t.Errorf("%s is taken", what)
		} else if len(err.Error()) > 1000 {
			t.Errorf("%s: the refusal repeats it: %.100q", what, err.Error())
		}
	}
	if now := n.peer().raft.LastIndex(); now != last {
		t.Errorf("%d entries were written to the log", now-last)
	}
}

// A peer that answers a request for its vote with an absurd term is not heard.
func TestTermsOfAnswers(t *testing.T) {
	log := raftLogger(slog.New(slog.DiscardHandler))
	layer := func(id string) (*raft.NetworkTransport, raft.ServerAddress) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		at := peerAddress(l.Addr().String(), id)
		tr := networkTransport(newStreamLayer(l, at, identity{ID: id, Cluster: "c"}, "p", nil), log)
		t.Cleanup(func() { _ = tr.Close() })
		return tr, at
	}
	liar, to := layer("liar-aaaaaaaa")
	honest, _ := layer("honest-aaaaaaaa")
	g := guardTerms(honest, 7)
	t.Cleanup(func() { _ = g.Close() })
	const term = math.MaxUint64 - 1
	go func() {
		for range 2 {
			rpc := <-liar.Consumer()
			switch rpc.Command.(type) {
			case *raft.RequestVoteRequest:
				rpc.Respond(&raft.RequestVoteResponse{Term: term, Granted: false}, nil)
			default:
				rpc.Respond(&raft.RequestPreVoteResponse{Term: term, Granted: false}, nil)
			}
		}
	}()
	head := raft.RPCHeader{ProtocolVersion: 3}
	for what, err := range map[string]error{
		"vote":     g.RequestVote("liar-aaaaaaaa", to, &raft.RequestVoteRequest{RPCHeader: head, Term: 8}, &raft.RequestVoteResponse{}),
		"pre-vote": g.RequestPreVote("liar-aaaaaaaa", to, &raft.RequestPreVoteRequest{RPCHeader: head, Term: 8}, &raft.RequestPreVoteResponse{}),
	} {
		if err == nil || !strings.Contains(err.Error(), "cannot be") {
			t.Errorf("a %s: %v", what, err)
		}
	}
}
