package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"dmps/meta/level"
)

// filled makes a bbolt file with buckets in place and of their own, long values, and
// branch pages; with a list of free pages, or without.
func filled(t *testing.T, withoutList bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.db")
	o := options()
	o.NoFreelistSync = withoutList
	db, err := bolt.Open(path, 0o600, o)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		if err := db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("many"))
			if err != nil {
				return err
			}
			small, err := tx.CreateBucketIfNotExists([]byte("small"))
			if err != nil {
				return err
			}
			if err := small.Put([]byte("k"), []byte("v")); err != nil {
				return err
			}
			for i := range 600 {
				if err := b.Put([]byte{byte(i >> 8), byte(i), 1}, bytes.Repeat([]byte{byte(round)}, 50)); err != nil {
					return err
				}
			}
			return b.Put([]byte("long"), make([]byte, 20000))
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// use does with a file what a node does: it must not end the process.
func use(path string) error {
	if err := CheckFile(path); err != nil {
		return err
	}
	db, err := bolt.Open(path, 0o600, options())
	if err != nil {
		return err
	}
	err = db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
	})
	return errors.Join(err, db.Close())
}

// Whatever page of a file is damaged, that is an error with the file's name, and
// nothing that ends the process.
func TestDamagedPages(t *testing.T) {
	for _, withoutList := range []bool{true, false} {
		path := filled(t, withoutList)
		if err := use(path); err != nil {
			t.Fatalf("a whole file: %v", err)
		}
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(1, 2))
		page := os.Getpagesize()
		found := 0
		try := func(what string, at int, bad []byte) {
			t.Helper()
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			err := use(path)
			if errors.Is(err, ErrDamaged) {
				found++
				if !strings.Contains(err.Error(), path) {
					t.Errorf("%s at %d: %v", what, at, err)
				}
			}
		}
		for at := 0; at < len(good) && !t.Failed(); at += page {
			if at > 2*page && bytes.Equal(good[at:at+page], make([]byte, page)) {
				continue // never used
			}
			random, zero := bytes.Clone(good), bytes.Clone(good)
			for i := at; i < at+page; i++ {
				random[i], zero[i] = byte(rng.Uint32()), 0
			}
			try("random page", at, random)
			try("zero page", at, zero)
			if at > 0 {
				try("cut", at, bytes.Clone(good[:at]))
			}
			// What matters is in the head and the entries.
			for range 3 {
				flip := bytes.Clone(good)
				flip[at+rng.IntN(200)] ^= 1 << rng.IntN(8)
				try("bit", at, flip)
			}
		}
		if found < 20 {
			t.Errorf("only %d damages were found", found)
		}
	}
}

// A snapshot with a right seal and wrong pages is an error too.
func TestCraftedSnapshot(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "state.db"), level.This(""))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	snap, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	_, err = snap.WriteTo(&b)
	if err := errors.Join(err, snap.Release()); err != nil {
		t.Fatal(err)
	}
	good := b.Bytes()[:b.Len()-sealSize]
	rng := rand.New(rand.NewPCG(3, 4))
	damaged := 0
	for range 100 {
		bad := bytes.Clone(good)
		bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
		sum := sha256.Sum256(bad)
		if err := receive(filepath.Join(t.TempDir(), "next"), bytes.NewReader(append(bad, sum[:]...)), level.This("")); errors.Is(err, ErrDamaged) {
			damaged++
		}
	}
	if damaged == 0 {
		t.Error("no damage was found")
	}
}
