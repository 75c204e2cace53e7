package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"dmps/meta/level"
	"dmps/meta/state"
)

// sealed makes of a body what somebody sends who knows how a snapshot is made.
func sealed(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append(bytes.Clone(body), sum[:]...)
}

// FuzzReceive takes snapshots whose seal is right and whose pages are not: each is an error,
// or a state that can be used. b is edits, of 4 bytes where and 1 byte what.
func FuzzReceive(f *testing.F) {
	s, err := Open(filepath.Join(f.TempDir(), "state.db"), level.This(""))
	if err != nil {
		f.Fatal(err)
	}
	s.Apply(history(f))
	snap, err := s.Snapshot()
	if err != nil {
		f.Fatal(err)
	}
	var sent bytes.Buffer
	if _, err := snap.WriteTo(&sent); err != nil {
		f.Fatal(err)
	}
	if err := snap.Release(); err != nil {
		f.Fatal(err)
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	body := sent.Bytes()[:sent.Len()-sealSize]
	edit := func(at int, what byte) []byte { return append(binary.LittleEndian.AppendUint32(nil, uint32(at)), what) }
	f.Add([]byte{})
	f.Add(edit(16, 1))      // the version in the first meta page
	f.Add(edit(4096+64, 1)) // the checksum of the second
	for at := 8192; at < len(body); at += 4096 {
		f.Add(edit(at+8, 0xff))   // the kind of a page
		f.Add(edit(at+10, 0xff))  // how much is in it
		f.Add(edit(at+12, 0xff))  // how many pages follow
		f.Add(edit(at+17, 0xff))  // where the first element lies
		f.Add(edit(at+300, 0xff)) // what a record says
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		changed := bytes.Clone(body)
		for ; len(b) >= 5; b = b[5:] {
			changed[int(binary.LittleEndian.Uint32(b))%len(changed)] = b[4]
		}
		path := filepath.Join(dir, filepath.Base(t.TempDir()))
		_, err := Check(bytes.NewReader(sealed(changed)), path, level.This(""), func(st *state.State) {
			for _, v := range st.SortedVolumes() { // as status does
				st.Health(v, v.Report)
			}
			st.Recover(1, "as a backup") // and dmps meta restore
			if err := st.Check(); err != nil {
				t.Errorf("it is taken, and contradicts itself afterwards: %v", err)
			}
		})
		if bytes.Equal(changed, body) && err != nil {
			t.Errorf("it is as it was: %v", err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	})
}
