package meta

import (
	"errors"
	"io"

	"github.com/hashicorp/raft"

	"dmps/meta/store"
)

// fsm is the Raft adapter of a store.
type fsm struct {
	store *store.Store
	busy  *busy // the watchdog looks at it
}

var _ raft.BatchingFSM = (*fsm)(nil)

// Apply implements raft.FSM; the result is a store.Result.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM: one transaction a batch.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	defer f.busy.begin()()
	entries := make([]store.Entry, len(logs))
	for i, l := range logs {
		entries[i].Index = l.Index
		if l.Type == raft.LogCommand {
			entries[i].Data = l.Data
		}
	}
	out := make([]any, len(logs))
	for i, r := range f.store.Apply(entries) {
		out[i] = r
	}
	return out
}

// Snapshot implements raft.FSM.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	s, err := f.store.Snapshot()
	if err != nil {
		return nil, err
	}
	return &snapshot{s}, nil
}

// Restore implements raft.FSM.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer f.busy.begin()()
	return errors.Join(f.store.Restore(r), r.Close())
}

type snapshot struct{ *store.Snapshot }

// Persist implements raft.FSMSnapshot.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := s.WriteTo(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (s *snapshot) Release() { _ = s.Snapshot.Release() } // a read transaction has nothing to lose
