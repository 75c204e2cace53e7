package meta

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"dmps/internal/accept"
	"dmps/meta/state"
	"dmps/meta/store"
)

// ErrRemoved is the end of a node that was removed from its cluster.
var ErrRemoved = errors.New("this node was removed from the cluster") // stop it; a new one needs an empty folder

// ErrSuperseded is the end of a node whose cluster was restored or recovered without it.
var ErrSuperseded = errors.New("the cluster was restored or recovered without this node") // remove its folder; a new one joins

// ErrLevel is the end of a node that the others do not let take part: it does not know the
// cluster's level. Its message says what to install.
var ErrLevel = errors.New("this version does not know the cluster's level")

// Node is one process's part in the metadata service.
type Node struct {
	cfg     Config
	log     *slog.Logger
	raftLog hclog.Logger
	disks   *disks
	metrics *metrics

	process  string       // random, of this start: a copy of the folder that runs elsewhere has another
	apiAddr  string       // advertised host:port; "": no API (tests)
	raftAddr string       // advertised host:port
	raftL    net.Listener // nil after Raft took it
	http     *http.Server
	proxies  *http.Transport // to the leader
	peersTo  *http.Client    // to other nodes' API
	joins    *http.Client    // the same for Join, in which the leader asks others itself

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	done   chan struct{} // closed when the node failed or was closed
	asked  atomic.Int32  // futures of Raft that are waited for

	dials    chan struct{} // room for dials of memory servers
	changing sync.Mutex    // one change of Raft's configuration at a time

	mu struct {
		sync.Mutex
		identity identity
		peer     *peer  // nil: Raft has not started
		reign    *reign // nil: this node does not lead
		err      error  // why the node ended
		closed   bool
	}
}

// Start opens the node's folder, listens, and takes part in the cluster that
// it belongs to, or looks for one. It returns when the API answers; a node
// that is still alone then goes on looking until Close (WaitReady waits for
// the end of that). ctx bounds Start alone.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	n, err := open(cfg)
	if err != nil {
		return nil, fmt.Errorf("metadata node %s: %w", cfg.Name, err)
	}
	if err := n.listen(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("metadata node %s: %w", cfg.Name, err), n.Close())
	}
	if err := n.begin(); err != nil {
		return nil, errors.Join(fmt.Errorf("metadata node %s: %w", cfg.Name, err), n.Close())
	}
	return n, nil
}

// open makes a node from its folder, without network.
func open(cfg Config) (*Node, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, log: cfg.Logger.With("node", cfg.Name), done: make(chan struct{}), process: rand.Text(), dials: make(chan struct{}, dialsAtOnce),
		proxies: &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: 30 * time.Second,
			DialContext: (&net.Dialer{Timeout: time.Second}).DialContext},
	}
	n.peersTo = &http.Client{Transport: n.proxies, Timeout: 2 * time.Second}
	n.joins = &http.Client{Transport: n.proxies, Timeout: 10 * time.Second}
	n.raftLog = raftLogger(n.log)
	var err error
	if n.disks, err = openDisks(cfg.Dir, cfg.build, n.raftLog); err != nil {
		return nil, err
	}
	if err := n.recognize(); err != nil {
		return nil, errors.Join(err, n.disks.close())
	}
	n.metrics = newMetrics(n)
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n, nil
}

// recognize reads who the node is and checks that its files agree.
func (n *Node) recognize() error {
	id, err := loadIdentity(n.cfg.Dir, n.cfg.Name)
	if err != nil {
		return err
	}
	begun, err := n.disks.begun()
	if err != nil {
		return fmt.Errorf("look for Raft state: %w", err)
	}
	var cluster string
	if err := n.disks.state.View(func(s *state.State) {
		cluster = s.Cluster
		id.Generation = max(id.Generation, s.Generation)
	}); err != nil {
		return err
	}
	if err := n.disks.readable(n.cfg.build); err != nil {
		return err
	}
	switch {
	case id.Superseded > id.generation():
		return supersededError(id)
	case begun && id.Cluster == "":
		return fmt.Errorf("folder %s holds Raft state, but %s does not name its cluster: it was copied or damaged; start with an empty folder to replace the node", n.cfg.Dir, identityFile)
	case cluster != "" && cluster != id.Cluster:
		return fmt.Errorf("folder %s holds the state of cluster %s, but this node belongs to cluster %s", n.cfg.Dir, cluster, id.Cluster)
	}
	n.mu.identity = id
	return nil
}

// listen opens both listeners and serves the API.
func (n *Node) listen(ctx context.Context) error {
	api, err := accept.Listen(ctx, "tcp", n.cfg.APIListen, n.log)
	if err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	n.apiAddr = n.cfg.APIAdvertise
	setDefault(&n.apiAddr, api.Addr().String())
	if n.raftL, err = accept.Listen(ctx, "tcp", n.cfg.RaftListen, n.log); err != nil {
		return errors.Join(fmt.Errorf("listen for other nodes: %w", err), api.Close())
	}
	n.raftAddr = n.cfg.RaftAdvertise
	setDefault(&n.raftAddr, n.raftL.Addr().String())
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true) // gRPC clients
	n.http = &http.Server{
		Handler: n.handler(), Protocols: &protocols, ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	n.wg.Go(func() {
		if err := n.http.Serve(api); !errors.Is(err, http.ErrServerClosed) {
			n.fail(fmt.Errorf("serve the API: %w", err))
		}
	})
	return nil
}

// begin starts Raft when this node belongs to a cluster, or looks for one.
func (n *Node) begin() error {
	id := n.identity()
	begun, err := n.disks.begun()
	if err != nil {
		return fmt.Errorf("look for Raft state: %w", err)
	}
	if id.Member || begun {
		if err := n.notACopy(); err != nil {
			return err
		}
		if err := n.startRaft(nil); err != nil {
			return err
		}
		n.wg.Go(func() { n.greetPeers(n.ctx) })
		return nil
	}
	if len(n.cfg.Join) == 0 {
		return n.bootstrap([]raft.Server{{ID: raft.ServerID(id.ID), Address: peerAddress(n.raftAddr, id.ID)}}, nil)
	}
	n.wg.Go(func() {
		if err := n.form(n.ctx); err != nil && n.ctx.Err() == nil {
			n.fail(err)
		}
	})
	return nil
}

// startRaft takes part; transport nil: over the network.
func (n *Node) startRaft(transport raft.Transport) error {
	id := n.identity()
	var layer *streamLayer
	if transport == nil {
		term, err := n.disks.term()
		if err != nil {
			return err
		}
		layer = newStreamLayer(n.raftL, peerAddress(n.raftAddr, id.ID), id, n.process, n.superseded)
		n.raftL = nil
		transport = guardTerms(networkTransport(layer, n.raftLog), term)
	}
	p, err := openPeer(n.disks, id.ID, n.cfg, transport, n.raftLog)
	if err != nil {
		return err
	}
	p.layer = layer
	n.mu.Lock()
	n.mu.peer = p
	n.mu.Unlock()
	n.wg.Go(func() { n.followNotify(n.ctx, p) })
	n.wg.Go(func() { n.watch(n.ctx, p) })
	n.wg.Go(func() { n.guard(n.ctx, p) })
	return nil
}

// maxAhead bounds how far in the future of this node's clock a generation may lie
// (state.State.Generation): what lies beyond was made up, or is of a clock that is wrong.
const maxAhead = 7 * 24 * time.Hour

// superseded ends the node for good: its cluster was restored or recovered without it,
// and is of a higher generation. What this one would decide contradicts it.
func (n *Node) superseded(generation uint64) {
	if generation > uint64(time.Now().Add(maxAhead).UnixMilli()) {
		n.log.Error("somebody speaks of a generation of the cluster that cannot be", "generation", generation)
		return
	}
	err := n.setIdentity(func(id *identity) error {
		id.Superseded = max(id.Superseded, generation)
		return nil
	})
	n.fail(errors.Join(supersededError(n.identity()), err))
}

func supersededError(id identity) error {
	return fmt.Errorf("%w: cluster %s is of generation %d by now, this node of generation %d. Remove its folder, and let it join with an empty one", ErrSuperseded, id.Cluster, id.Superseded, id.generation())
}

// guard ends the node when its Raft ended or its state cannot be written.
func (n *Node) guard(ctx context.Context, p *peer) {
	for sleep(ctx, ruleEvery) {
		if err := n.disks.state.Err(); err != nil {
			n.fail(err)
			return
		}
		if p.raft.State() == raft.Shutdown {
			n.fail(ErrRemoved)
			return
		}
	}
}

// unusable ends the node when its state cannot be used any more; a full disk
// only has it wait.
func (n *Node) unusable(err error) {
	if !errors.Is(err, store.ErrFull) {
		n.fail(err)
	}
}

// fail ends the node's service for a reason; Close is still to be called.
func (n *Node) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.err != nil || n.mu.closed {
		return
	}
	n.mu.err = err
	n.log.Error("the metadata node ends", "err", err)
	n.cancel()
	close(n.done)
}

// Done is closed when the node ended: by Close, or on its own (see Err).
func (n *Node) Done() <-chan struct{} { return n.done }

// Err says why the node ended on its own, or nil.
func (n *Node) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.err
}

// Close ends the node and waits for all that it started. Its folder can be
// started again.
func (n *Node) Close() error {
	n.mu.Lock()
	if n.mu.closed {
		n.mu.Unlock()
		return nil
	}
	n.mu.closed = true
	if n.mu.err == nil {
		close(n.done)
	}
	p := n.mu.peer
	n.mu.Unlock()
	n.cancel()
	n.disks.giveUp()
	var errs []error
	if n.http != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if err := n.http.Shutdown(ctx); err != nil {
			errs = append(errs, n.http.Close())
		}
		cancel()
	}
	if p == nil {
		// form may be starting Raft this moment: it ends first, then looks.
		n.wg.Wait()
		p = n.peer()
	}
	if p != nil {
		n.settle()
		errs = append(errs, p.close())
	}
	if n.raftL != nil {
		errs = append(errs, n.raftL.Close())
	}
	n.wg.Wait()
	n.proxies.CloseIdleConnections()
	errs = append(errs, n.disks.close())
	return errors.Join(errs...)
}

// WaitReady waits until a leader is known and the state can be asked for.
func (n *Node) WaitReady(ctx context.Context) error {
	for !n.ready() {
		select {
		case <-n.done:
			return fmt.Errorf("metadata node %s ended: %w", n.cfg.Name, errors.Join(n.Err(), net.ErrClosed))
		default:
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return fmt.Errorf("metadata node %s is not ready: %w", n.cfg.Name, ctx.Err())
		}
	}
	return nil
}

// ready reports whether a call would be answered: by this node or by the
// leader that it knows.
func (n *Node) ready() bool {
	n.mu.Lock()
	r, p := n.mu.reign, n.mu.peer
	n.mu.Unlock()
	if r != nil {
		select {
		case <-r.ready:
			return true
		default:
			return false
		}
	}
	return p != nil && n.leaderURL(p) != ""
}

// leaderURL is where the leader's API is, "" when unknown or this node's.
func (n *Node) leaderURL(p *peer) string {
	_, id := p.raft.LeaderWithID()
	if id == "" || string(id) == n.identity().ID {
		return ""
	}
	var u string
	if err := n.disks.state.View(func(s *state.State) {
		if node := s.Nodes[string(id)]; node != nil {
			u = node.API
		}
	}); err != nil {
		return "" // guard ends the node for it, or it waits for room
	}
	return u
}

// APIURL is where the API is, for other processes.
func (n *Node) APIURL() string { return "http://" + n.apiAddr }

// RaftAddr is where other nodes find this one.
func (n *Node) RaftAddr() string { return n.raftAddr }

// ID is the node's name with its random part.
func (n *Node) ID() string { return n.identity().ID }

func (n *Node) identity() identity {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.identity
}

// setIdentity writes it down before anybody can see it.
func (n *Node) setIdentity(change func(*identity) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := n.mu.identity
	if err := change(&id); err != nil {
		return err
	}
	if err := id.save(n.cfg.Dir); err != nil {
		return err
	}
	n.mu.identity = id
	return nil
}

func (n *Node) peer() *peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.peer
}

// self is this node's record.
func (n *Node) self() state.Node {
	id := n.identity()
	return state.Node{ID: id.ID, Name: id.Name, API: n.APIURL(), Raft: n.raftAddr, Build: n.cfg.build}
}
