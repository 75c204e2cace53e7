package meta

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dmps/meta/store"
)

// A damaged page of a node's files is an error that names the file and the way out.
func TestDamagedFilesAreNamed(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, "meta1")
	n := start(t, cfg)
	waitReady(t, n)
	registerServers(t, newClient(t, 0, n), 3)
	stop(t, n)
	for _, name := range []string{"raft.db", "state.db"} {
		path := filepath.Join(cfg.Dir, name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := append([]byte(nil), good...)
		clear(bad[2*os.Getpagesize():])
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = Start(t.Context(), cfg)
		_, examined := Examine(cfg.Dir)
		for _, err := range []error{err, examined} {
			if !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "--join") {
				t.Errorf("%s is damaged: %v", name, err)
			}
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
