package store

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"

	"dmps/meta/state"
)

// ErrFull is a store that waits for room on its disk: what is in memory is
// ahead of the file, and nobody is told of it.
var ErrFull = errors.New("the disk of the state file is full") // make room, or ask another node: nothing is damaged

// RoomEvery is how often a full disk is tried again.
const RoomEvery = 500 * time.Millisecond

// IsFull tells a disk without room, which can be waited out, from one that fails.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// commitLocked writes what was touched, and the index. A full disk is waited
// out, with the lock released; GiveUp and Close end that. bbolt begins the
// transaction anew each time, from what is on disk: writing the same records
// twice changes nothing.
func (s *Store) commitLocked(t state.Touched, applied uint64) error {
	for {
		err := s.updateLocked(t, applied)
		if !IsFull(err) {
			s.mu.full = nil
			return err
		}
		s.mu.full = err
		s.mu.Unlock()
		retry := time.NewTimer(RoomEvery)
		given := false
		select {
		case <-s.giveUp:
			given = true
		case <-retry.C:
		}
		retry.Stop()
		s.mu.Lock()
		switch {
		case s.mu.err != nil:
			return s.mu.err
		case given:
			return err
		}
	}
}

func (s *Store) updateLocked(t state.Touched, applied uint64) error {
	if s.fault != nil {
		if err := s.fault(); err != nil {
			return err
		}
	}
	return s.mu.db.Update(func(tx *bolt.Tx) error { return write(tx, s.mu.state, t, applied) })
}

// Full says why the store waits, or nil when it does not.
func (s *Store) Full() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.full
}

// GiveUp has the store not wait for room any more, because its node ends: what
// it waits for stops it. It is in the log, and is carried out after a restart.
func (s *Store) GiveUp() { s.once.Do(func() { close(s.giveUp) }) }

// usableLocked says why nobody may look at the state; the caller holds the lock.
func (s *Store) usableLocked() error {
	switch {
	case s.mu.err != nil:
		return fmt.Errorf("%w: %w", ErrStopped, s.mu.err)
	case s.mu.full != nil:
		return fmt.Errorf("%w: %w", ErrFull, s.mu.full)
	}
	return nil
}
