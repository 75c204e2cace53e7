package meta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"

	"dmps/meta/level"
	"dmps/meta/state"
	"dmps/meta/store"
	"dmps/raid"
)

// Contents is what a backup or the folder of a node holds.
type Contents struct {
	Cluster string `json:"cluster"`

	Generation uint64 `json:"generation"`     // of the cluster, see state.State.Generation
	Node       string `json:"node,omitempty"` // whose folder it is; empty: a backup
	Applied    uint64 `json:"applied"`        // index of the last command in it: of two, the higher one is newer
	Logged     uint64 `json:"logged"`         // of the last command in the node's log, which RecoverSurvivor carries out too; a backup has none
	Servers    int    `json:"servers"`
	Volumes    int    `json:"volumes"`
}

func (c *Contents) read(s *state.State) {
	c.Cluster, c.Servers, c.Volumes = s.Cluster, len(s.Servers), len(s.Volumes)
	c.Generation = s.Generation
}

// CheckBackup reads a backup to its end, verifies its checksum and every record
// in it, and says what it holds. It needs as much room in the temporary folder
// as the backup has bytes.
func CheckBackup(from io.Reader) (c Contents, err error) {
	dir, err := os.MkdirTemp("", "dmps-backup-")
	if err != nil {
		return c, fmt.Errorf("check a backup: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c.Applied, err = store.Check(from, filepath.Join(dir, "state.db"), level.This(""), c.read)
	if err != nil {
		return Contents{}, fmt.Errorf("check a backup: %w", err)
	}
	return c, nil
}

// Prospect is what a backup knows that can be asked after before it is restored.
type Prospect struct {
	Contents
	Living  []string       `json:"living"` // metadata nodes of the cluster that answer: restoring is refused
	Layouts []*raid.Layout `json:"-"`      // of volumes that a client has opened, at an epoch above all leases
}

// ReadBackup verifies a backup as CheckBackup does, and asks the metadata nodes that it
// names whether they live.
func ReadBackup(ctx context.Context, from io.Reader) (p Prospect, err error) {
	dir, err := os.MkdirTemp("", "dmps-backup-")
	if err != nil {
		return p, fmt.Errorf("read a backup: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var nodes []state.Node
	p.Applied, err = store.Check(from, filepath.Join(dir, "state.db"), level.This(""), func(s *state.State) {
		p.read(s)
		for _, n := range s.Nodes {
			nodes = append(nodes, *n)
		}
		for _, v := range s.SortedVolumes() {
			if !v.Unopened && !v.Untouched {
				p.Layouts = append(p.Layouts, s.Layout(v, raid.MaxEpoch, false))
			}
		}
	})
	if err != nil {
		return Prospect{}, fmt.Errorf("read a backup: %w", err)
	}
	p.Living = living(ctx, p.Cluster, nodes)
	return p, nil
}

// Examine says what the folder of a node holds while no node runs there: which
// of several survivors knows most. Errors: ErrRunning.
func Examine(dir string) (c Contents, err error) {
	fail := func(err error) (Contents, error) { return Contents{}, fmt.Errorf("examine %s: %w", dir, err) }
	b, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, os.ErrNotExist) {
		return fail(errors.New("no metadata node was here"))
	}
	if err != nil {
		return fail(err)
	}
	id, err := parseIdentity(b)
	if err != nil {
		return fail(err)
	}
	d, err := openDisks(dir, level.This(""), hclog.NewNullLogger())
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.state.View(c.read); err != nil {
		return fail(err)
	}
	if c.Logged, err = d.log.LastIndex(); err != nil {
		return fail(fmt.Errorf("end of the Raft log: %w", err))
	}
	c.Node, c.Applied = id.Name, d.state.Applied()
	c.Logged = max(c.Logged, c.Applied)
	snaps, err := d.snaps.List()
	if err != nil {
		return fail(fmt.Errorf("list snapshots: %w", err))
	}
	if len(snaps) > 0 { // one may have come and not taken effect yet
		c.Logged = max(c.Logged, snaps[0].Index)
	}
	if c.Cluster == "" {
		c.Cluster = id.Cluster // nothing was applied yet
	}
	return c, nil
}
