package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// FileName is the name of a File in the cluster's folder.
const FileName = "cluster.json"

// File is cluster.json: where a running cluster is and what it consists of.
// It exists while the cluster serves, and is replaced as a whole (by rename)
// when a role gets another process.
type File struct {
	NBD        string   `json:"nbd"`        // NBD URI of the volume
	Export     string   `json:"export"`     // its name, part of the URI; the empty export name works too
	Volume     string   `json:"volume"`     // name of the volume
	Redundancy string   `json:"redundancy"` // none, mirror:N or rs:K+M
	Layout     string   `json:"layout"`     // log, linear or striped
	SizeBytes  int64    `json:"size_bytes"` // of the volume
	MetaURLs   []string `json:"meta_urls"`  // for --meta or DMPS_META, joined by commas
	Dev        Role     `json:"dev"`        // who holds it all together: SIGTERM to it ends every role
	Meta       []Role   `json:"meta"`
	Servers    []Role   `json:"servers"`
	Client     Role     `json:"client"`
}

// Role is one process of the cluster.
type Role struct {
	ID      string   `json:"id"`
	PID     int      `json:"pid"`             // of the last process that was seen; never 0
	Running bool     `json:"running"`         // false: that process is gone
	API     string   `json:"api,omitempty"`   // meta: URL of its API
	Addr    string   `json:"addr,omitempty"`  // server: host:port of its transport
	Admin   string   `json:"admin,omitempty"` // client: URL of its status and metrics
	Argv    []string `json:"argv"`            // starts it again: absolute paths, fixed ports
	Log     string   `json:"log"`             // its standard error, appended to by the cluster's own starts
}

// Roles lists all roles except Dev: meta, servers, client.
func (f *File) Roles() []*Role {
	var all []*Role
	for i := range f.Meta {
		all = append(all, &f.Meta[i])
	}
	for i := range f.Servers {
		all = append(all, &f.Servers[i])
	}
	return append(all, &f.Client)
}

// ReadFile reads the cluster.json of the cluster in dir. Its absence is
// fs.ErrNotExist: the cluster does not serve, or not yet.
func ReadFile(dir string) (File, error) {
	b, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		return File{}, fmt.Errorf("cluster: %w", err)
	}
	var f File
	if err := json.Unmarshal(b, &f); err != nil {
		return File{}, fmt.Errorf("cluster: %s: %w", FileName, err)
	}
	return f, nil
}

// write replaces cluster.json in dir at once.
func (f *File) write(dir string) error {
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("cluster: encoding %s: %w", FileName, err)
	}
	return replaceFile(filepath.Join(dir, FileName), append(b, '\n'))
}

// replaceFile writes a file so that readers see the old or the new, never a
// part.
func replaceFile(path string, b []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	_, werr := tmp.Write(b)
	if err := errors.Join(werr, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return fmt.Errorf("cluster: writing %s: %w", path, err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return nil
}
