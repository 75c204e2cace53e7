package meta

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"dmps/meta/level"
)

// identity is who a node is, in node.json in its folder. It is written before
// anybody else relies on it.
type identity struct {
	Name     string `json:"name"`
	ID       string `json:"id"`                 // name and a random part: another disk is another node, Raft's votes are on the disk
	Cluster  string `json:"cluster,omitempty"`  // the only cluster that this node will ever belong to
	Proposer string `json:"proposer,omitempty"` // id of the node that bootstraps Cluster; empty after joining
	Member   bool   `json:"member,omitempty"`   // Raft may be started

	Begin level.Level `json:"begin,omitempty"` // level that Cluster begins with; 0: it is not this node's to say

	Generation uint64 `json:"generation,omitempty"` // of Cluster, see state.State.Generation; 0: 1
	Superseded uint64 `json:"superseded,omitempty"` // a higher generation that was heard of: the node decides nothing any more
}

// generation is that of the node's cluster; 0: it belongs to none.
func (id identity) generation() uint64 {
	if id.Cluster == "" {
		return 0
	}
	return max(id.Generation, 1)
}

const identityFile = "node.json"

// idRandom is the length of the random part of an id, with its dash.
const idRandom = 9

// loadIdentity reads who the node is, or makes it somebody.
func loadIdentity(dir, name string) (identity, error) {
	b, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, os.ErrNotExist) {
		id := identity{Name: name, ID: name + "-" + strings.ToLower(rand.Text()[:idRandom-1])}
		return id, id.save(dir)
	}
	if err != nil {
		return identity{}, fmt.Errorf("who this node is: %w", err)
	}
	id, err := parseIdentity(b)
	if err != nil {
		return identity{}, fmt.Errorf("who this node is: %s in %s is damaged (%w): put it back, or start with an empty folder to replace the node", identityFile, dir, err)
	}
	if id.Name != name {
		return identity{}, fmt.Errorf("folder %s belongs to node %s, not %s", dir, id.Name, name)
	}
	return id, nil
}

func parseIdentity(b []byte) (identity, error) {
	var id identity
	err := json.Unmarshal(b, &id)
	if err == nil && id.ID == "" {
		err = errors.New("no id")
	}
	return id, err
}

// save writes the identity so that a crash leaves the old one or the new one.
func (id identity) save(dir string) error {
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("save %s: %w", identityFile, err)
	}
	next := filepath.Join(dir, identityFile+".new")
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("save %s: %w", identityFile, err)
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(next, filepath.Join(dir, identityFile))
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("save %s: %w", identityFile, err)
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
