package meta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"dmps/meta/level"
	"dmps/meta/raftlog"
	"dmps/meta/state"
	"dmps/meta/store"
)

// ErrRunning is a folder whose files another process has open.
var ErrRunning = errors.New("a metadata node runs on this folder") // stop that one first

// disks is what a node keeps.
type disks struct {
	state *store.Store
	log   *raftlog.Store // Raft's log and votes
	snaps *raft.FileSnapshotStore

	ending chan struct{} // closed by giveUp
	once   sync.Once
}

func openDisks(dir string, build level.Build, logger hclog.Logger) (*disks, error) {
	d := &disks{ending: make(chan struct{})}
	var err error
	if d.snaps, err = raft.NewFileSnapshotStoreWithLogger(dir, 2, logger); err != nil {
		return nil, fmt.Errorf("snapshots in %s: %w", dir, err)
	}
	if err := store.CheckFile(filepath.Join(dir, "raft.db")); err != nil {
		return nil, damaged(err)
	}
	d.log, err = raftlog.Open(filepath.Join(dir, "raft.db"), &bolt.Options{Timeout: time.Second, FreelistType: bolt.FreelistMapType, NoFreelistSync: true})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s: %w", dir, ErrRunning)
	}
	if err != nil {
		return nil, damaged(err)
	}
	if d.state, err = store.Open(filepath.Join(dir, "state.db"), build); err != nil {
		return nil, errors.Join(damaged(err), d.log.Close())
	}
	return d, nil
}

// damaged adds the way out to the error of a file that cannot be used.
func damaged(err error) error {
	if errors.Is(err, store.ErrDamaged) || errors.Is(err, raftlog.ErrDamaged) {
		return fmt.Errorf("%w. Replace the node: start it with an empty folder and --join; if no other node is left, restore a backup (dmps meta restore)", err)
	}
	return err
}

// giveUp ends the waiting for room on a full disk: the node ends.
func (d *disks) giveUp() {
	d.once.Do(func() { close(d.ending) })
	d.state.GiveUp()
}

func (d *disks) close() error { return errors.Join(d.log.Close(), d.state.Close()) }

// begun reports whether the node ever took part in Raft.
func (d *disks) begun() (bool, error) { return raft.HasExistingState(d.log, d.log, d.snaps) }

// readable refuses a log in which the node has yet to carry out something of a level that
// it does not know: it would end when the others say that this was decided, with each
// start. Errors: *level.UnknownError.
func (d *disks) readable(build level.Build) error {
	first, err := d.log.FirstIndex()
	if err != nil {
		return fmt.Errorf("beginning of the Raft log: %w", err)
	}
	last, err := d.log.LastIndex()
	if err != nil {
		return fmt.Errorf("end of the Raft log: %w", err)
	}
	for i := max(first, d.state.Applied()+1); i <= last; i++ {
		var l raft.Log
		if err := d.log.GetLog(i, &l); err != nil {
			return fmt.Errorf("entry %d of the Raft log: %w", i, err)
		}
		if l.Type != raft.LogCommand {
			continue
		}
		var unknown *level.UnknownError
		if _, err := state.Decode(l.Data, build); errors.As(err, &unknown) {
			return fmt.Errorf("entry %d of the Raft log: %w", i, err)
		}
	}
	return nil
}

// restoreFirst reports whether Raft must load its newest snapshot into the
// state file at start: only when a crash came between the arrival of a
// snapshot and its taking effect. Otherwise the file is at least as new.
func (d *disks) restoreFirst() (bool, error) {
	list, err := d.snaps.List()
	if err != nil {
		return false, fmt.Errorf("list snapshots: %w", err)
	}
	last, err := d.log.LastIndex()
	if err != nil {
		return false, fmt.Errorf("end of the Raft log: %w", err)
	}
	newest := uint64(0)
	if len(list) > 0 {
		newest = list[0].Index
	}
	applied := d.state.Applied()
	if applied > max(last, newest) {
		return false, fmt.Errorf("the state holds command %d, but the Raft log ends at %d: its file was lost or is an older copy; replace this node by an empty one", applied, max(last, newest))
	}
	return newest > applied, nil
}

// term is the latest that Raft has kept.
func (d *disks) term() (uint64, error) {
	t, err := d.log.GetUint64([]byte("CurrentTerm"))
	if err != nil && !errors.Is(err, raftlog.ErrNotFound) {
		return 0, fmt.Errorf("term of the Raft log: %w", err)
	}
	return t, nil
}

// peer is the node's part in Raft.
type peer struct {
	raft   *raft.Raft
	log    *watchedLog
	fsm    *fsm
	addr   raft.ServerAddress
	notify chan bool
	layer  *streamLayer // nil: Raft does not run over the network (tests)
	closer io.Closer    // the transport
	silent atomic.Bool  // its log stalls: it does not lead, whatever it believes
}

// leads reports whether this node leads, as far as it can know.
func (p *peer) leads() bool { return p.raft.State() == raft.Leader && !p.silent.Load() }

// raftConfig is what differs from the library's defaults, and why.
func raftConfig(id string, logger hclog.Logger, notify chan<- bool) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(id)
	c.Logger = logger
	c.NotifyCh = notify
	c.MaxAppendEntries = 64
	c.SnapshotThreshold = 4096 // commands: some MiB of log
	c.TrailingLogs = 4096
	c.BatchApplyCh = true
	return c
}

// openPeer starts Raft. It takes over the transport, also on failure.
func openPeer(d *disks, id string, cfg Config, t raft.Transport, logger hclog.Logger) (*peer, error) {
	closer, _ := t.(raft.WithClose)
	fail := func(err error) (*peer, error) {
		if closer != nil {
			err = errors.Join(err, closer.Close())
		}
		return nil, err
	}
	restore, err := d.restoreFirst()
	if err != nil {
		return fail(err)
	}
	p := &peer{
		log: &watchedLog{LogStore: d.log, stable: d.log, ending: d.ending, before: cfg.beforeLog}, fsm: &fsm{store: d.state, busy: &busy{}},
		addr: t.LocalAddr(), notify: make(chan bool, 8), closer: closer,
	}
	c := raftConfig(id, logger, p.notify)
	c.NoSnapshotRestoreOnStart = !restore
	if p.raft, err = raft.NewRaft(c, p.fsm, p.log, p.log, d.snaps, t); err != nil {
		if unusable := d.state.Err(); unusable != nil {
			err = unusable // its snapshot could not be taken
		}
		return fail(fmt.Errorf("start Raft: %w", err))
	}
	return p, nil
}

func (p *peer) close() error {
	err := p.raft.Shutdown().Error()
	if p.closer != nil {
		err = errors.Join(err, p.closer.Close())
	}
	return err
}

// networkTransport carries Raft over TCP. Pipelining is off (MaxRPCsInFlight
// 1): it wedges after a follower's disk stalled.
func networkTransport(layer *streamLayer, logger hclog.Logger) *raft.NetworkTransport {
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: layer, MaxPool: 3, MaxRPCsInFlight: 1, Timeout: 5 * time.Second, Logger: logger,
	})
}

// raftLogger hands Raft's log lines to slog.
func raftLogger(to *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Level: hclog.Info, Output: io.Discard})
	l.RegisterSink(slogSink{to})
	return l
}

type slogSink struct{ to *slog.Logger }

// Accept implements hclog.SinkAdapter.
func (s slogSink) Accept(name string, level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug // Raft's own information is for its developers
	switch level {
	case hclog.Warn:
		to = slog.LevelWarn
	case hclog.Error:
		to = slog.LevelError
	}
	s.to.Log(context.Background(), to, name+": "+msg, args...)
}
