package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"dmps/meta/level"
	"dmps/meta/state"
	"dmps/raid"
)

// ErrStopped is a store after a failure to write, or after Close: start again
// from disk.
var ErrStopped = errors.New("the state file is not in use any more")

var (
	rootBucket    = []byte("root")
	serversBucket = []byte("servers")
	volumesBucket = []byte("volumes")
	groupsBucket  = []byte("groups") // key: volume, group, big endian
	nodesBucket   = []byte("nodes")
	eventsBucket  = []byte("events") // key: sequence number, big endian
	rootKey       = []byte("root")
)

// format is the version of the file's layout.
const format = 1

// mmapSize is address space, not memory: a snapshot's long read transaction
// would stop a writer that has to map a grown file.
const mmapSize = 1 << 30

// root is the record of what there is one of.
type root struct {
	Format     int           `json:"format"`
	Cluster    string        `json:"cluster"`
	NextVolume raid.VolumeID `json:"next_volume"`
	NextChunk  raid.ChunkID  `json:"next_chunk"`
	Applied    uint64        `json:"applied"` // index of the last command in the file

	Balance    *state.Balance `json:"balance,omitempty"`
	Generation uint64         `json:"generation,omitempty"` // 0: 1
	Gaps       []state.Gap    `json:"gaps,omitempty"`
	Level      level.Level    `json:"level,omitempty"` // of the cluster; 0: the first
	LevelBy    string         `json:"level_by,omitempty"`
}

// Entry is a command of the log.
type Entry struct {
	Index uint64
	Data  []byte // a state.Command; nil only moves the index
}

// Result is what became of an Entry.
type Result struct {
	Value   any   // of state.State.Apply
	Err     error // a *state.Refusal, or the store stopped
	Skipped bool  // the entry was in the state already
}

// Store is a State and its file. It is safe for concurrent use.
type Store struct {
	path   string
	build  level.Build   // who reads it
	level  atomic.Uint32 // of the cluster, also while the lock is held
	giveUp chan struct{} // closed: a full disk is not waited out any more
	once   sync.Once
	fault  func() error // tests: before every write, as if by the disk
	mu     struct {
		sync.RWMutex
		db      *bolt.DB
		state   *state.State
		applied uint64
		err     error         // why the store stopped
		full    error         // why Apply waits for room on the disk; nil: it does not
		changed chan struct{} // closed with the next change
	}
}

func options() *bolt.Options {
	return &bolt.Options{
		Timeout: time.Second, FreelistType: bolt.FreelistMapType, NoFreelistSync: true, InitialMmapSize: mmapSize,
	}
}

// Open opens or makes the file, for a build. Errors: *level.UnknownError when the file is
// of a level that the build does not know; then nothing was changed.
func Open(path string, build level.Build) (*Store, error) {
	s := &Store{path: path, build: build, giveUp: make(chan struct{})}
	s.mu.changed = make(chan struct{})
	if err := s.load(); err != nil {
		return nil, err
	}
	return s, nil
}

// load opens the file and reads the state; the caller holds the lock or is
// alone.
func (s *Store) load() error {
	if err := CheckFile(s.path); err != nil {
		return err
	}
	db, err := bolt.Open(s.path, 0o600, options())
	if err != nil {
		return fmt.Errorf("open state file %s: %w", s.path, err)
	}
	st, applied, err := read(db, s.build)
	if err != nil {
		return errors.Join(fmt.Errorf("state file %s: %w", s.path, err), db.Close())
	}
	s.mu.db, s.mu.state, s.mu.applied = db, st, applied
	s.level.Store(uint32(st.Level))
	return nil
}

// read makes sure that the buckets are there and reads all records.
func read(db *bolt.DB, build level.Build) (*state.State, uint64, error) {
	st := state.New()
	var r root
	err := db.Update(func(tx *bolt.Tx) error {
		if err := checkLevel(tx, build); err != nil {
			return err
		}
		for _, b := range [][]byte{rootBucket, serversBucket, volumesBucket, groupsBucket, nodesBucket, eventsBucket} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		if b := tx.Bucket(rootBucket).Get(rootKey); b != nil {
			if err := state.ReadAll(b, &r); err != nil {
				return fmt.Errorf("root record: %w", err)
			}
			if r.Format != format {
				return fmt.Errorf("format %d is not known to this version", r.Format)
			}
			st.Cluster, st.NextVolume, st.NextChunk, st.Balance = r.Cluster, r.NextVolume, r.NextChunk, r.Balance
			st.Generation, st.Gaps = max(r.Generation, 1), r.Gaps
			st.Level, st.LevelBy = max(r.Level, 1), r.LevelBy
			if needs := level.Of(&r); needs > st.Level {
				return fmt.Errorf("root record: it needs cluster level %d, the cluster is at level %d", needs, st.Level)
			}
		}
		return errors.Join(
			readAll(tx, serversBucket, func(sv *state.Server) { st.Servers[sv.ID] = sv }),
			readAll(tx, volumesBucket, func(v *state.Volume) { st.Volumes[v.ID] = v }),
			readAll(tx, nodesBucket, func(n *state.Node) { st.Nodes[n.ID] = n }),
			readAll(tx, eventsBucket, func(e *state.Event) { st.Events = append(st.Events, *e) }),
			readGroups(tx, st),
		)
	})
	if err != nil {
		return nil, 0, err
	}
	st.Reindex()
	return st, r.Applied, st.Check()
}

// checkLevel looks at the cluster's level before anything else is read: of a higher one
// than the build knows nobody can tell what that is. It may be called before there are
// buckets.
func checkLevel(tx *bolt.Tx, build level.Build) error {
	b := tx.Bucket(rootBucket)
	if b == nil || b.Get(rootKey) == nil {
		return nil
	}
	var head struct {
		Level   level.Level `json:"level"`
		LevelBy string      `json:"level_by"`
	}
	if err := json.Unmarshal(b.Get(rootKey), &head); err != nil {
		return fmt.Errorf("root record: %w", err)
	}
	return build.Check("what it holds", max(head.Level, 1), head.LevelBy)
}

func readAll[T any](tx *bolt.Tx, bucket []byte, put func(*T)) error {
	return tx.Bucket(bucket).ForEach(func(k, b []byte) error {
		v := new(T)
		if err := state.ReadAll(b, v); err != nil {
			return fmt.Errorf("%s record %x: %w", bucket, k, err)
		}
		put(v)
		return nil
	})
}

// readGroups reads groups in the order of their keys: each volume's from 0 on.
func readGroups(tx *bolt.Tx, st *state.State) error {
	return tx.Bucket(groupsBucket).ForEach(func(k, b []byte) error {
		if len(k) != 12 {
			return fmt.Errorf("group key of %d bytes", len(k))
		}
		id, at := binary.BigEndian.Uint64(k), binary.BigEndian.Uint32(k[8:])
		v := st.Volumes[raid.VolumeID(id)]
		if v == nil || int(at) != len(v.Groups) {
			return fmt.Errorf("group %d of volume %d is out of place", at, id)
		}
		g := new(state.Group)
		if err := state.ReadAll(b, g); err != nil {
			return fmt.Errorf("group %d of volume %d: %w", at, id, err)
		}
		v.Groups = append(v.Groups, g)
		return nil
	})
}

// Apply carries out commands in order, in one transaction with the index of
// the last. A refused command is a result like any other; a failure to write,
// or a command that this version does not know, stops the store. While the disk
// is full it does not return, and nobody sees what it did (Full, GiveUp). Calls
// do not overlap.
func (s *Store) Apply(entries []Entry) []Result {
	results := make([]Result, len(entries))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.err == nil {
		s.mu.err = s.applyLocked(entries, results)
	}
	if s.mu.err != nil {
		for i := range results {
			results[i] = Result{Err: fmt.Errorf("%w: %w", ErrStopped, s.mu.err)}
		}
	}
	return results
}

func (s *Store) applyLocked(entries []Entry, results []Result) error {
	applied := s.mu.applied
	for i, e := range entries {
		if e.Index <= applied {
			results[i].Skipped = true
			continue
		}
		applied = e.Index
		if e.Data == nil {
			continue
		}
		c, err := state.Decode(e.Data, s.build)
		if err != nil {
			return fmt.Errorf("log entry %d: %w", e.Index, err)
		}
		results[i].Value, results[i].Err = s.mu.state.Apply(c)
	}
	if applied == s.mu.applied {
		return nil
	}
	if err := s.commitLocked(s.mu.state.TakeTouched(), applied); err != nil {
		return fmt.Errorf("write state file %s: %w", s.path, err)
	}
	s.mu.applied = applied
	s.level.Store(uint32(s.mu.state.Level))
	s.changedLocked()
	return nil
}

// Level is that of the cluster, without a look at whether the state can be used.
func (s *Store) Level() level.Level { return level.Level(s.level.Load()) }

func (s *Store) changedLocked() {
	close(s.mu.changed)
	s.mu.changed = make(chan struct{})
}

// Changed gives a channel that is closed when commands are applied, or the
// state is restored, after this call.
func (s *Store) Changed() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.changed
}

// write puts what was touched, and the index.
func write(tx *bolt.Tx, st *state.State, t state.Touched, applied uint64) error {
	for id := range t.Servers {
		if err := put(tx, serversBucket, []byte(id), st.Servers[id]); err != nil {
			return err
		}
	}
	for id := range t.Nodes {
		if err := put(tx, nodesBucket, []byte(id), st.Nodes[id]); err != nil {
			return err
		}
	}
	for id := range t.Volumes {
		if err := put(tx, volumesBucket, binary.BigEndian.AppendUint64(nil, uint64(id)), st.Volumes[id]); err != nil {
			return err
		}
	}
	for seq := range t.Events {
		if err := put(tx, eventsBucket, binary.BigEndian.AppendUint64(nil, seq), st.Event(seq)); err != nil {
			return err
		}
	}
	// In their order: a volume's groups come after all others then, and a leaf that is
	// filled in any other is moved in memory with each of them.
	for _, k := range slices.SortedFunc(maps.Keys(t.Groups), state.GroupKey.Compare) {
		var g *state.Group
		if v := st.Volumes[k.Volume]; v != nil {
			g = v.Groups[k.Group]
		}
		key := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, uint64(k.Volume)), uint32(k.Group))
		if err := put(tx, groupsBucket, key, g); err != nil {
			return err
		}
	}
	r := &root{Format: format, Cluster: st.Cluster, NextVolume: st.NextVolume, NextChunk: st.NextChunk, Applied: applied, Balance: st.Balance, Generation: st.Generation, Gaps: st.Gaps, Level: st.Level, LevelBy: st.LevelBy}
	return put(tx, rootBucket, rootKey, r)
}

// put writes a record, or deletes it when v is nil.
func put[T any](tx *bolt.Tx, bucket, key []byte, v *T) error {
	b := tx.Bucket(bucket)
	if v == nil {
		return b.Delete(key)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s record %x: %w", bucket, key, err)
	}
	return b.Put(key, data)
}

// Rewrite changes the state outside of commands, while no Raft runs.
func (s *Store) Rewrite(change func(*state.State)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.err != nil {
		return fmt.Errorf("%w: %w", ErrStopped, s.mu.err)
	}
	change(s.mu.state)
	if err := s.mu.state.Check(); err != nil {
		s.mu.err = err
	} else {
		s.mu.err = s.updateLocked(s.mu.state.TakeTouched(), s.mu.applied)
	}
	if s.mu.err != nil {
		return fmt.Errorf("write state file %s: %w", s.path, s.mu.err)
	}
	return nil
}

// View calls f with the state, which f must neither change nor keep. Errors:
// ErrStopped, ErrFull.
func (s *Store) View(f func(*state.State)) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usableLocked(); err != nil {
		return err
	}
	f(s.mu.state)
	return nil
}

// Applied is the index of the last command in the state.
func (s *Store) Applied() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.applied
}

// Err says why the store stopped, or nil.
func (s *Store) Err() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.err
}

// Close ends the use of the file. Snapshots must be released before.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.err == nil {
		s.mu.err = errors.New("closed")
	}
	if s.mu.db == nil {
		return nil
	}
	err := s.mu.db.Close()
	s.mu.db = nil
	return err
}
