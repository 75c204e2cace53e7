package meta

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Root recovers a folder, and another user runs the node (DynamicUser of systemd, by a link).
func TestRecoverKeepsTheOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes what belongs to others")
	}
	const user = 4711
	cfg := testConfig(t, "m")
	n, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	waitReady(t, n)
	stop(t, n)
	err = filepath.WalkDir(cfg.Dir, func(path string, _ fs.DirEntry, _ error) error { return os.Lchown(path, user, user) })
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "meta")
	if err := os.Symlink(cfg.Dir, link); err != nil {
		t.Fatal(err)
	}
	if err := RecoverSurvivor(t.Context(), RestoreConfig{Dir: link, RaftAdvertise: "127.0.0.1:7201"}); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(cfg.Dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if st.Uid != user || st.Gid != user {
			t.Errorf("%s belongs to %d:%d", path, st.Uid, st.Gid)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
