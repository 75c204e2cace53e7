package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// version of the format; what the file says is compared with it.
const version = 1

var (
	bucketEntries = []byte("entries")
	bucketVotes   = []byte("votes")
	bucketFormat  = []byte("format")
	keyVersion    = []byte("version")
)

// ErrNotFound: no such vote was kept. Raft knows it by this text.
var ErrNotFound = errors.New("not found")

// ErrVersion is a file of another format.
var ErrVersion = errors.New("the Raft log has another format")

// Store implements raft.LogStore and raft.StableStore. Its methods may be called by
// several goroutines.
type Store struct{ db *bbolt.DB }

var (
	_ raft.LogStore    = (*Store)(nil)
	_ raft.StableStore = (*Store)(nil)
)

// Open opens a file, or makes it. Errors: those of bbolt, among them its ErrTimeout when
// another process has the file; ErrVersion; ErrDamaged.
func Open(path string, o *bbolt.Options) (*Store, error) {
	db, err := bbolt.Open(path, 0o600, o)
	if err != nil {
		return nil, fmt.Errorf("open the Raft log: %w", err)
	}
	err = db.Update(begin)
	if err == nil {
		err = db.View(whole)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the Raft log %s: %w", path, err), db.Close())
	}
	return &Store{db: db}, nil
}

// whole reads all entries: Raft panics when it cannot read one that its snapshot does not
// cover, though it was carried out long ago.
func whole(tx *bbolt.Tx) error {
	var l raft.Log
	return tx.Bucket(bucketEntries).ForEach(func(k, v []byte) error {
		if len(k) != 8 {
			return fmt.Errorf("%w: an index of %d bytes", ErrDamaged, len(k))
		}
		return decode(binary.BigEndian.Uint64(k), v, &l)
	})
}

// begin makes the buckets of a new file, and refuses one of another format.
func begin(tx *bbolt.Tx) error {
	if b := tx.Bucket(bucketFormat); b != nil {
		if v := b.Get(keyVersion); len(v) != 1 || v[0] != version {
			return fmt.Errorf("%w: version %v, and this program knows %d", ErrVersion, v, version)
		}
		return nil
	}
	if k, _ := tx.Cursor().First(); k != nil {
		return fmt.Errorf("%w: it has no version. Replace the node: start it with an empty folder and --join", ErrVersion)
	}
	for _, name := range [][]byte{bucketEntries, bucketVotes, bucketFormat} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketFormat).Put(keyVersion, []byte{version})
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }

// FirstIndex implements raft.LogStore: 0 when there is no entry.
func (s *Store) FirstIndex() (index uint64, err error) {
	return index, s.db.View(func(tx *bbolt.Tx) error {
		if k, _ := tx.Bucket(bucketEntries).Cursor().First(); k != nil {
			index = binary.BigEndian.Uint64(k)
		}
		return nil
	})
}

// LastIndex implements raft.LogStore: 0 when there is no entry.
func (s *Store) LastIndex() (index uint64, err error) {
	return index, s.db.View(func(tx *bbolt.Tx) error {
		if k, _ := tx.Bucket(bucketEntries).Cursor().Last(); k != nil {
			index = binary.BigEndian.Uint64(k)
		}
		return nil
	})
}

// GetLog implements raft.LogStore. Errors: raft.ErrLogNotFound, ErrDamaged.
func (s *Store) GetLog(index uint64, l *raft.Log) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketEntries).Get(key(index))
		if b == nil {
			return raft.ErrLogNotFound
		}
		return decode(index, b, l)
	})
}

// StoreLog implements raft.LogStore.
func (s *Store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore: all of them are stored, or none.
func (s *Store) StoreLogs(logs []*raft.Log) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketEntries)
		b.FillPercent = 0.9 // entries come in order
		for _, l := range logs {
			v, err := encode(l)
			if err != nil {
				return err
			}
			if err := b.Put(key(l.Index), v); err != nil {
				return fmt.Errorf("entry %d of the Raft log: %w", l.Index, err)
			}
		}
		return nil
	})
}

// DeleteRange implements raft.LogStore: from low to high, both of them too.
func (s *Store) DeleteRange(low, high uint64) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketEntries).Cursor()
		for k, _ := c.Seek(key(low)); k != nil && binary.BigEndian.Uint64(k) <= high; k, _ = c.Seek(key(low)) {
			if err := c.Delete(); err != nil {
				return fmt.Errorf("deleting entries %d to %d of the Raft log: %w", low, high, err)
			}
		}
		return nil
	})
}

// Set implements raft.StableStore.
func (s *Store) Set(key, val []byte) error {
	return s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketVotes).Put(key, val) })
}

// Get implements raft.StableStore. Errors: ErrNotFound.
func (s *Store) Get(key []byte) (val []byte, err error) {
	return val, s.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketVotes).Get(key)
		if v == nil {
			return ErrNotFound
		}
		val = append([]byte{}, v...)
		return nil
	})
}

// SetUint64 implements raft.StableStore.
func (s *Store) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 implements raft.StableStore. Errors: ErrNotFound, ErrDamaged.
func (s *Store) GetUint64(key []byte) (uint64, error) {
	b, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: %q has %d bytes", ErrDamaged, key, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}
