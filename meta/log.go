package meta

import (
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"dmps/meta/store"
)

// watchedLog is Raft's log and its votes, with an eye on their writes, all of
// which come from Raft's main loop, one at a time. A full disk is waited out
// like one that stalls: Raft would end the process when it cannot keep its
// term, and a leader that gives up and is elected again helps nobody.
type watchedLog struct {
	raft.LogStore
	stable raft.StableStore
	ending <-chan struct{} // closed: a full disk is not waited out any more
	busy   busy
	before func() error // a write; nil: nothing. Set before Raft starts
	noRoom atomic.Pointer[error]
}

var (
	_ raft.LogStore    = (*watchedLog)(nil)
	_ raft.StableStore = (*watchedLog)(nil)
)

// errEnding is a write that was given up because the node ends.
var errEnding = errors.New("the node ends while its disk is full")

// full says why a write waits for room, or nil when none does.
func (l *watchedLog) full() error {
	if p := l.noRoom.Load(); p != nil {
		return *p
	}
	return nil
}

// write does it, and waits for room.
func (l *watchedLog) write(f func() error) error {
	defer l.busy.begin()()
	defer l.noRoom.Store(nil)
	for {
		err := l.attempt(f)
		if !store.IsFull(err) {
			return err
		}
		l.noRoom.Store(&err)
		retry := time.NewTimer(store.RoomEvery)
		select {
		case <-l.ending:
			retry.Stop()
			return errors.Join(errEnding, err)
		case <-retry.C:
		}
	}
}

func (l *watchedLog) attempt(f func() error) error {
	if l.before != nil {
		if err := l.before(); err != nil {
			return err
		}
	}
	return f()
}

// StoreLog implements raft.LogStore.
func (l *watchedLog) StoreLog(log *raft.Log) error {
	return l.write(func() error { return l.LogStore.StoreLog(log) })
}

// StoreLogs implements raft.LogStore.
func (l *watchedLog) StoreLogs(logs []*raft.Log) error {
	return l.write(func() error { return l.LogStore.StoreLogs(logs) })
}

// Set implements raft.StableStore.
func (l *watchedLog) Set(key, val []byte) error {
	return l.write(func() error { return l.stable.Set(key, val) })
}

// SetUint64 implements raft.StableStore.
func (l *watchedLog) SetUint64(key []byte, val uint64) error {
	err := l.write(func() error { return l.stable.SetUint64(key, val) })
	if errors.Is(err, errEnding) {
		// Raft panics when it cannot keep its term. Its loop ends here instead:
		// it has promised nobody anything, and Close waits for it.
		runtime.Goexit()
	}
	return err
}

// Get implements raft.StableStore.
func (l *watchedLog) Get(key []byte) ([]byte, error) { return l.stable.Get(key) }

// GetUint64 implements raft.StableStore.
func (l *watchedLog) GetUint64(key []byte) (uint64, error) { return l.stable.GetUint64(key) }
