package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

	"dmps/meta/level"
	"dmps/meta/state"
)

// Snapshot is the state at one index, while commands go on.
type Snapshot struct{ tx *bolt.Tx }

// Snapshot takes one; the caller must Release it.
func (s *Store) Snapshot() (*Snapshot, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usableLocked(); err != nil {
		return nil, err
	}
	tx, err := s.mu.db.Begin(false)
	if err != nil {
		return nil, fmt.Errorf("snapshot of %s: %w", s.path, err)
	}
	return &Snapshot{tx: tx}, nil
}

// sealSize is the length of what follows the bbolt file in a snapshot: its
// SHA-256. bbolt maps what it opens, and half a file would not be an error but
// a bus error, which ends the process.
const sealSize = sha256.Size

// WriteTo writes the snapshot: a bbolt file and its seal.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	sum := sha256.New()
	n, err := s.tx.WriteTo(io.MultiWriter(w, sum))
	if err != nil {
		return n, err
	}
	m, err := w.Write(sum.Sum(nil))
	return n + int64(m), err
}

// Release ends the snapshot's read transaction.
func (s *Snapshot) Release() error { return s.tx.Rollback() }

// Restore replaces the state by a snapshot. The new file is complete, checked
// and on disk before it takes the old one's place, so that a crash leaves one
// of the two.
func (s *Store) Restore(r io.Reader) error {
	next := s.path + ".restore"
	if err := receive(next, r, s.build); err != nil {
		err = errors.Join(fmt.Errorf("restore %s: %w", s.path, err), removeIfThere(next))
		if unknown := (*level.UnknownError)(nil); errors.As(err, &unknown) {
			s.stop(err) // it would be sent the same again and again
		}
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.err != nil {
		return fmt.Errorf("%w: %w", ErrStopped, s.mu.err)
	}
	s.mu.err = s.replaceLocked(next)
	s.changedLocked()
	return s.mu.err
}

func (s *Store) stop(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.err == nil {
		s.mu.err = err
	}
}

func (s *Store) replaceLocked(next string) error {
	if err := s.mu.db.Close(); err != nil {
		return err
	}
	s.mu.db = nil
	if err := os.Rename(next, s.path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(s.path)); err != nil {
		return err
	}
	return s.load()
}

// receive writes a snapshot to a file of its own and checks it.
func receive(path string, r io.Reader, build level.Build) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, r)
	if err == nil {
		err = unseal(f, n)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := CheckFile(path); err != nil {
		return err
	}
	db, err := bolt.Open(path, 0o600, options())
	if err != nil {
		return err
	}
	_, _, err = read(db, build)
	return errors.Join(err, db.Close())
}

// unseal checks the seal of a snapshot of n bytes, cuts it off and syncs.
func unseal(f *os.File, n int64) error {
	body := n - sealSize
	if body <= 0 {
		return fmt.Errorf("snapshot of %d bytes", n)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, body)); err != nil {
		return err
	}
	seal := make([]byte, sealSize)
	if _, err := f.ReadAt(seal, body); err != nil {
		return err
	}
	if !bytes.Equal(seal, sum.Sum(nil)) {
		return errors.New("the snapshot is damaged or incomplete")
	}
	return errors.Join(f.Truncate(body), f.Sync())
}

// Check writes a snapshot to a file of its own, which the caller removes,
// verifies it as Restore does, calls f with what it holds, and gives the index
// of the last command in it. Errors: *level.UnknownError.
func Check(r io.Reader, path string, build level.Build, f func(*state.State)) (applied uint64, err error) {
	if err := receive(path, r, build); err != nil {
		return 0, err
	}
	db, err := bolt.Open(path, 0o600, options())
	if err != nil {
		return 0, err
	}
	st, applied, err := read(db, build)
	if err == nil {
		f(st)
	}
	return applied, errors.Join(err, db.Close())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
