package meta

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Root restores or recovers a folder, and another user runs the node (DynamicUser of systemd, by a link).
func TestRecoverKeepsTheOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes what belongs to others")
	}
	const user = 4711
	cfg := testConfig(t, "m")
	n := start(t, cfg)
	waitReady(t, n)
	var backup bytes.Buffer
	if _, err := newClient(t, 30*time.Second, n).Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	stop(t, n)
	owned := func(dir string, look func(path string) error) {
		t.Helper()
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error { return errors.Join(err, look(path)) })
		if err != nil {
			t.Error(err)
		}
	}
	give := func(path string) error { return os.Lchown(path, user, user) }
	again := RestoreConfig{RaftAdvertise: "127.0.0.1:7201"}
	fresh := t.TempDir()
	for dir, begin := range map[string]func() error{
		cfg.Dir: func() error { return RecoverSurvivor(t.Context(), again) },
		fresh:   func() error { return Restore(t.Context(), &backup, again) },
	} {
		owned(dir, give)
		again.Dir = filepath.Join(t.TempDir(), "meta")
		if err := errors.Join(os.Symlink(dir, again.Dir), begin()); err != nil {
			t.Fatal(err)
		}
		owned(dir, func(path string) error {
			var st unix.Stat_t
			err := unix.Lstat(path, &st)
			if st.Uid != user || st.Gid != user {
				t.Errorf("%s belongs to %d:%d", path, st.Uid, st.Gid)
			}
			return err
		})
	}
}
