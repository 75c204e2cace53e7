package meta

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"

	"dmps/meta/level"
	"dmps/meta/metapb"
	"dmps/meta/metapb/metapbconnect"
	"dmps/meta/state"
)

// RestoreConfig is where a cluster begins again, as one node.
type RestoreConfig struct {
	Dir           string // folder of the node: empty for Restore, a survivor's for RecoverSurvivor
	Name          string // of the node. Default: meta1; RecoverSurvivor keeps the folder's
	RaftAdvertise string // host:port under which other nodes will reach it. Default: 127.0.0.1:7201

	// MembershipOnly is for RecoverSurvivor: the folder lacks nothing that was ever
	// decided, only the other nodes are gone. Leases and all else stay (state.State.Alone).
	MembershipOnly bool

	beside bool // tests: also while nodes of the cluster live
}

// restoreTerm is the term of the snapshot that a restored cluster begins with.
const restoreTerm = 1

// ErrLives is a cluster that is to begin again although nodes of it answer.
var ErrLives = errors.New("metadata nodes of this cluster live") // stop them first, or leave it to them

// nobodyLives refuses to begin a cluster again beside itself: two would decide, and
// the older one gives up when it hears of the newer. It asks the nodes that the state
// names, except one.
func (d *disks) nobodyLives(ctx context.Context, cfg RestoreConfig, except string) error {
	if cfg.beside {
		return nil
	}
	var cluster string
	var nodes []state.Node
	err := d.state.View(func(s *state.State) {
		cluster = s.Cluster
		for _, n := range s.Nodes {
			if n.ID != except {
				nodes = append(nodes, *n)
			}
		}
	})
	if err != nil {
		return err
	}
	answers := living(ctx, cluster, nodes)
	if len(answers) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s. While a majority lives, replace single nodes by empty ones with --join; else stop all of them first", ErrLives, strings.Join(answers, ", "))
}

// living lists those nodes that answer and are of a cluster, and where.
func living(ctx context.Context, cluster string, nodes []state.Node) []string {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	to := &http.Client{Transport: &http.Transport{}}
	defer to.CloseIdleConnections()
	answers := make([]string, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			res, err := metapbconnect.NewClusterServiceClient(to, n.API, connect.WithReadMaxBytes(1<<20)).GetNode(ctx, connect.NewRequest(&metapb.GetNodeRequest{}))
			if err == nil && res.Msg.Cluster == cluster {
				answers[i] = n.Name + " at " + n.API
			}
		})
	}
	wg.Wait()
	answers = slices.DeleteFunc(answers, func(s string) bool { return s == "" })
	slices.Sort(answers)
	return answers
}

// ErrNotEmpty is a folder that a backup cannot be restored to.
var ErrNotEmpty = errors.New("the folder is not empty") // give a new one: nothing is overwritten

// Restore makes a folder from a backup. A node that is started there is the
// whole cluster, with the id of the old one; others join it with empty
// folders. No node of the old cluster may be started again. See state.State.Recover
// for what becomes of leases and servers. A failure leaves nothing that starts. While
// nodes answer that the backup names it is refused (ErrLives).
func Restore(ctx context.Context, from io.Reader, cfg RestoreConfig) error {
	setDefault(&cfg.Name, "meta1")
	setDefault(&cfg.RaftAdvertise, "127.0.0.1:7201")
	if !state.ValidName(cfg.Name) {
		return fmt.Errorf("node name %q: use 1 to 63 of a-z A-Z 0-9 . _ -", cfg.Name)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if has, err := os.ReadDir(cfg.Dir); err != nil {
		return fmt.Errorf("restore: %w", err)
	} else if len(has) > 0 {
		return fmt.Errorf("restore to %s: %w", cfg.Dir, ErrNotEmpty)
	}
	if err := restore(ctx, from, cfg); err != nil {
		return errors.Join(fmt.Errorf("restore to %s: %w", cfg.Dir, err), empty(cfg.Dir))
	}
	return keepOwner(cfg.Dir)
}

func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

func restore(ctx context.Context, from io.Reader, cfg RestoreConfig) (err error) {
	d, err := openDisks(cfg.Dir, level.This(""), hclog.NewNullLogger())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.state.Restore(from); err != nil {
		return err
	}
	id := identity{Name: cfg.Name, ID: cfg.Name + "-" + strings.ToLower(rand.Text()[:idRandom-1]), Member: true}
	id.Proposer = id.ID
	if err := d.state.View(func(s *state.State) { id.Cluster = s.Cluster }); err != nil {
		return err
	}
	if id.Cluster == "" {
		return errors.New("the backup is of a cluster that never began")
	}
	if err := d.nobodyLives(ctx, cfg, ""); err != nil {
		return err
	}
	now := time.Now()
	if err := d.state.Rewrite(func(s *state.State) {
		s.Recover(now.UnixMilli(), "from a backup")
		id.Generation = s.Generation
	}); err != nil {
		return err
	}
	if err := d.log.SetUint64([]byte("CurrentTerm"), restoreTerm); err != nil {
		return fmt.Errorf("write the Raft term: %w", err)
	}
	if err := d.begin(id.ID, cfg.RaftAdvertise); err != nil {
		return err
	}
	// Last, because without it the folder does not start.
	return id.save(cfg.Dir)
}

// alone is Raft's configuration of one node.
func alone(id, raftAddr string) raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(id), Address: peerAddress(raftAddr, id)}}}
}

// begin makes the state Raft's first snapshot.
func (d *disks) begin(id, raftAddr string) error {
	_, trans := raft.NewInmemTransport(peerAddress(raftAddr, id))
	// The state's own index may be 0; Raft's indexes begin with 1.
	sink, err := d.snaps.Create(1, max(d.state.Applied(), 1), restoreTerm, alone(id, raftAddr), 1, trans)
	if err != nil {
		return fmt.Errorf("make Raft's snapshot: %w", err)
	}
	s, err := d.state.Snapshot()
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := errors.Join((&snapshot{s}).Persist(sink), s.Release()); err != nil {
		return fmt.Errorf("write Raft's snapshot: %w", err)
	}
	return nil
}

// RecoverSurvivor makes the folder of one node the whole cluster, when the
// majority is lost for good. What its log holds counts as decided, whether the
// majority had confirmed it or not; what it never got is forgotten, as with a
// backup (state.State.Recover), unless MembershipOnly says that there is no such thing. The other nodes must never be started again; new ones
// join with empty folders. It may be repeated after a failure.
func RecoverSurvivor(ctx context.Context, cfg RestoreConfig) error {
	return errors.Join(recoverSurvivor(ctx, cfg), keepOwner(cfg.Dir))
}

// keepOwner gives what is in a folder to whom the folder belongs: root recovers, and the
// user of the service has to be able to read and write what that made.
func keepOwner(dir string) error {
	dir, err := filepath.EvalSymlinks(dir) // of systemd, with DynamicUser
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var st unix.Stat_t
	if err := errors.Join(err, unix.Stat(dir, &st)); err != nil {
		return err
	}
	if int(st.Uid) == os.Geteuid() {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return cmp.Or(err, os.Lchown(path, int(st.Uid), int(st.Gid)))
	})
}

func recoverSurvivor(ctx context.Context, cfg RestoreConfig) (err error) {
	setDefault(&cfg.RaftAdvertise, "127.0.0.1:7201")
	if _, err := os.Stat(filepath.Join(cfg.Dir, identityFile)); err != nil {
		return fmt.Errorf("recover %s: no metadata node was here: %w", cfg.Dir, err)
	}
	logger := hclog.NewNullLogger()
	d, err := openDisks(cfg.Dir, level.This(""), logger)
	if err != nil {
		return fmt.Errorf("recover %s: %w", cfg.Dir, err)
	}
	defer func() { err = errors.Join(err, d.close()) }()
	b, err := os.ReadFile(filepath.Join(cfg.Dir, identityFile))
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	id, err := parseIdentity(b)
	if err != nil {
		return fmt.Errorf("recover %s: %w", cfg.Dir, err)
	}
	if err := errors.Join(ctx.Err(), d.readable(level.This("")), d.nobodyLives(ctx, cfg, id.ID)); err != nil {
		return fmt.Errorf("recover %s: %w", cfg.Dir, err)
	}
	_, trans := raft.NewInmemTransport(peerAddress(cfg.RaftAdvertise, id.ID))
	c := raftConfig(id.ID, logger, nil)
	f := &recovery{fsm{store: d.state, busy: &busy{}}, cfg.MembershipOnly, id.Superseded}
	if err := raft.RecoverCluster(c, f, d.log, d.log, d.snaps, trans, alone(id.ID, cfg.RaftAdvertise)); err != nil {
		return fmt.Errorf("recover %s: %w", cfg.Dir, err)
	}
	if err := d.state.View(func(s *state.State) { id.Generation = s.Generation }); err != nil {
		return fmt.Errorf("recover %s: %w", cfg.Dir, err)
	}
	id.Member, id.Superseded = true, 0
	return id.save(cfg.Dir)
}

// recovery is the fsm whose snapshot is that of a recovered state: it is what
// the cluster begins again with.
type recovery struct {
	fsm
	membershipOnly bool
	superseded     uint64 // a generation that was heard of: the new one is higher
}

// Snapshot implements raft.FSM.
func (r *recovery) Snapshot() (raft.FSMSnapshot, error) {
	if err := r.store.Err(); err != nil {
		return nil, err
	}
	now := time.Now().UnixMilli()
	err := r.store.Rewrite(func(s *state.State) {
		s.Generation = max(s.Generation, r.superseded)
		if r.membershipOnly {
			s.Alone(now)
		} else {
			s.Recover(now, "from the disk of one node")
		}
	})
	if err != nil {
		return nil, err
	}
	s, err := r.store.Snapshot()
	if err != nil {
		return nil, err
	}
	return &finalSnapshot{snapshot{s}}, nil
}

// finalSnapshot releases itself: raft.RecoverCluster does not.
type finalSnapshot struct{ snapshot }

// Persist implements raft.FSMSnapshot.
func (s *finalSnapshot) Persist(sink raft.SnapshotSink) error {
	defer s.snapshot.Release()
	return s.snapshot.Persist(sink)
}

// Release implements raft.FSMSnapshot.
func (s *finalSnapshot) Release() {}
