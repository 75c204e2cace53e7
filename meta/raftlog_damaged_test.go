package meta

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"dmps/meta/raftlog"
)

// A damaged entry of the Raft log ends a start with an error that names the file and the
// way out, also one that was carried out long ago: Raft itself panics when it reads it.
func TestDamagedEntriesAreNamed(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "meta1")
	n := start(t, cfg)
	waitReady(t, n)
	registerServers(t, newClient(t, 0, n), 3)
	stop(t, n)
	path := filepath.Join(cfg.Dir, "raft.db")
	flip := func(last bool) {
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte("entries"))
			k, v := b.Cursor().First()
			if last {
				k, v = b.Cursor().Last()
			}
			v = append([]byte(nil), v...)
			v[len(v)-1] ^= 1
			return b.Put(append([]byte(nil), k...), v)
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for _, last := range []bool{false, true} {
		flip(last)
		n, err := Start(t.Context(), cfg)
		if err == nil {
			stop(t, n)
		}
		_, examined := Examine(cfg.Dir)
		for _, err := range []error{err, examined} {
			if !errors.Is(err, raftlog.ErrDamaged) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "--join") {
				t.Errorf("an entry is damaged, the last one: %v: %v", last, err)
			}
		}
		flip(last)
	}
}
