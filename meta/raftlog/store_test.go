package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

func open(t rapid.TB, path string) *Store {
	t.Helper()
	s, err := Open(path, &bbolt.Options{NoSync: true, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func drawLog(t *rapid.T, index uint64) *raft.Log {
	l := &raft.Log{
		Index: index, Term: rapid.Uint64().Draw(t, "term"), Type: raft.LogType(rapid.Byte().Draw(t, "type")),
		Data: rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "data"),
	}
	if rapid.Bool().Draw(t, "extended") {
		l.Extensions = rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(t, "extensions")
	}
	if rapid.Bool().Draw(t, "timed") {
		l.AppendedAt = time.Unix(0, rapid.Int64Range(1, 1<<62).Draw(t, "at"))
	}
	return l
}

// TestStore: whatever is stored and deleted, also across restarts, is as a map has it.
func TestStore(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		path := filepath.Join(t.TempDir(), "raft.db")
		s := open(t, path)
		defer func() { s.Close() }()
		entries, votes := map[uint64]*raft.Log{}, map[string][]byte{}
		next := rapid.Uint64Range(1, 1<<40).Draw(rt, "first")
		first := next
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				var logs []*raft.Log
				for range rapid.IntRange(1, 5).Draw(t, "count") {
					l := drawLog(t, next)
					logs, entries[next] = append(logs, l), l
					next++
				}
				if err := s.StoreLogs(logs); err != nil {
					t.Fatal(err)
				}
			},
			"one again": func(t *rapid.T) {
				if len(entries) == 0 {
					t.Skip("none")
				}
				l := drawLog(t, next-1)
				entries[next-1] = l
				if err := s.StoreLog(l); err != nil {
					t.Fatal(err)
				}
			},
			"delete the beginning": func(t *rapid.T) {
				to := rapid.Uint64Range(first, next).Draw(t, "to")
				if err := s.DeleteRange(0, to); err != nil {
					t.Fatal(err)
				}
				for i := range entries {
					if i <= to {
						delete(entries, i)
					}
				}
				first = max(first, min(to+1, next))
			},
			"delete the end": func(t *rapid.T) {
				from := rapid.Uint64Range(first, next).Draw(t, "from")
				if err := s.DeleteRange(from, next); err != nil {
					t.Fatal(err)
				}
				for i := range entries {
					if i >= from {
						delete(entries, i)
					}
				}
				next = min(next, from)
			},
			"vote": func(t *rapid.T) {
				k := rapid.SampledFrom([]string{"CurrentTerm", "LastVoteCand"}).Draw(t, "key")
				v := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "value")
				votes[k] = v
				if err := s.Set([]byte(k), v); err != nil {
					t.Fatal(err)
				}
			},
			"restart": func(t *rapid.T) {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, path)
			},
			"": func(t *rapid.T) { agree(t, s, entries, votes, first, next) },
		})
	})
}

func agree(t *rapid.T, s *Store, entries map[uint64]*raft.Log, votes map[string][]byte, first, next uint64) {
	f, ferr := s.FirstIndex()
	l, lerr := s.LastIndex()
	wantFirst, wantLast := first, next-1
	if len(entries) == 0 {
		wantFirst, wantLast = 0, 0
	}
	if ferr != nil || lerr != nil || f != wantFirst || l != wantLast {
		t.Fatalf("from %d (%v) to %d (%v), should be %d to %d", f, ferr, l, lerr, wantFirst, wantLast)
	}
	for i := first - 1; i <= next; i++ {
		var got raft.Log
		err := s.GetLog(i, &got)
		want := entries[i]
		if want == nil {
			if !errors.Is(err, raft.ErrLogNotFound) {
				t.Fatalf("entry %d, which is not there: %v", i, err)
			}
			continue
		}
		if diff := cmp.Diff(*want, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Fatalf("entry %d: %v\n%s", i, err, diff)
		}
	}
	for k, want := range votes {
		if got, err := s.Get([]byte(k)); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s is %x (%v), should be %x", k, got, err, want)
		}
	}
}

// TestNotFound: Raft tells a new node by this text.
func TestNotFound(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "raft.db"))
	defer s.Close()
	if known, err := raft.HasExistingState(s, s, raft.NewDiscardSnapshotStore()); known || err != nil {
		t.Errorf("a new file: %v, %v", known, err)
	}
	if _, err := s.GetUint64([]byte("CurrentTerm")); err == nil || err.Error() != "not found" {
		t.Errorf("a vote that is not there: %v", err)
	}
	if err := s.SetUint64([]byte("CurrentTerm"), 7); err != nil {
		t.Fatal(err)
	}
	if n, err := s.GetUint64([]byte("CurrentTerm")); n != 7 || err != nil {
		t.Errorf("the term is %d, %v", n, err)
	}
	if known, err := raft.HasExistingState(s, s, raft.NewDiscardSnapshotStore()); !known || err != nil {
		t.Errorf("a file with a term: %v, %v", known, err)
	}
	if err := s.Set([]byte("CurrentTerm"), []byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetUint64([]byte("CurrentTerm")); !errors.Is(err, ErrDamaged) {
		t.Errorf("a term of one byte: %v", err)
	}
}

// TestOtherFormat: what another version wrote is refused, and left as it is.
func TestOtherFormat(t *testing.T) {
	for name, write := range map[string]func(tx *bbolt.Tx) error{
		"none": func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte("logs"))
			return err
		},
		"a later one": func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket(bucketFormat)
			return errors.Join(err, b.Put(keyVersion, []byte{version + 1}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "raft.db")
			db, err := bbolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Update(write), db.Close()); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if s, err := Open(path, &bbolt.Options{Timeout: time.Second}); !errors.Is(err, ErrVersion) {
					t.Errorf("it opens: %v, %v", s, err)
				}
			}
		})
	}
}

// TestDamagedEntry: a flipped bit of an entry, or an entry under another index, is found.
func TestDamagedEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLog(t, 7)
		b, err := encode(l)
		if err != nil {
			t.Fatal(err)
		}
		if err := decode(8, b, new(raft.Log)); !errors.Is(err, ErrDamaged) {
			t.Errorf("under another index: %v", err)
		}
		bit := rapid.IntRange(0, len(b)*8-1).Draw(t, "bit")
		b[bit/8] ^= 1 << (bit % 8)
		if err := decode(7, b, new(raft.Log)); !errors.Is(err, ErrDamaged) {
			t.Errorf("bit %d flipped: %v", bit, err)
		}
	})
}

// TestGolden: the bytes of a file that is kept.
func TestGolden(t *testing.T) {
	b, err := encode(&raft.Log{Index: 7, Term: 3, Type: raft.LogCommand, AppendedAt: time.Unix(1, 2), Extensions: []byte("e"), Data: []byte("data")})
	want := "\x00\x00\x00\x00\x00\x00\x00\x03" + "\x00" + "\x00\x00\x00\x00\x3b\x9a\xca\x02" + "\x00\x00\x00\x01" + "e" + "data"
	if err != nil || string(b[4:]) != want || binary.BigEndian.Uint32(b) != crc32.Checksum([]byte("\x00\x00\x00\x00\x00\x00\x00\x07"+want), crc32.MakeTable(crc32.Castagnoli)) {
		t.Errorf("%v: %q", err, b)
	}
	var l raft.Log
	if err := decode(7, b, &l); err != nil || l.Term != 3 || string(l.Data) != "data" || string(l.Extensions) != "e" || !l.AppendedAt.Equal(time.Unix(1, 2)) {
		t.Errorf("%v: %+v", err, l)
	}
}

func FuzzDecode(f *testing.F) {
	b, err := encode(&raft.Log{Index: 1, Term: 3, Extensions: []byte("e"), Data: []byte("data")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 4 {
			return
		}
		b = bytes.Clone(b)
		sum := checksum(key(1), b[4:])
		b[0], b[1], b[2], b[3] = byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)
		var l raft.Log
		if err := decode(1, b, &l); err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		again, err := encode(&l)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x is encoded again as %x, %v", b, again, err)
		}
	})
}
