package cluster

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"dmps/internal/nbdclient"
	"dmps/internal/port"
)

// clientID is the role that serves NBD.
const clientID = "client"

// ports are those of the roles, kept as long as the cluster runs: a role that was
// killed finds its own when it is started again.
type ports []*port.Held

func (p *ports) take(host string) (address string, err error) {
	h, err := port.Hold()
	if err != nil {
		return "", fmt.Errorf("cluster: %w", err)
	}
	*p = append(*p, h)
	return h.At(host), nil
}

func (p *ports) release() error {
	var errs []error
	for _, h := range *p {
		errs = append(errs, h.Release())
	}
	*p = nil
	return errors.Join(errs...)
}

// plan takes ports and writes down every role's command line.
func (c *Config) plan(d *folder, p *ports) (File, nbdclient.Addr, error) {
	nbd, err := c.nbdAddr(p)
	if err != nil {
		return File{}, nbd, err
	}
	take := func() string {
		address, terr := p.take("127.0.0.1")
		err = errors.Join(err, terr)
		return address
	}
	f := File{
		NBD: nbd.String(), Export: nbd.Export, Volume: c.Volume,
		Redundancy: c.Redundancy.String(), Layout: c.Layout.String(), SizeBytes: int64(c.Size),
		Dev: Role{ID: "dev", PID: os.Getpid(), Running: true, Argv: os.Args},
	}
	role := func(id string, argv ...string) Role {
		argv = slices.Concat([]string{c.Bin}, argv, c.RoleArgs, []string{"--pidfile", d.pidFile(id)})
		return Role{ID: id, Argv: argv, Log: d.logFile(id)}
	}

	front := func(id, address string) string {
		fronted, ferr := c.Front(id, address)
		err = errors.Join(err, ferr)
		return fronted
	}
	type node struct{ id, api, raft, apiFront, raftFront string }
	nodes := make([]node, c.Meta)
	var urls []string // as the roles reach them
	for i := range nodes {
		n := node{id: "meta" + strconv.Itoa(i+1), api: take(), raft: take()}
		n.apiFront, n.raftFront = front(n.id, n.api), front(n.id, n.raft)
		nodes[i] = n
		f.MetaURLs = append(f.MetaURLs, "http://"+n.api)
		urls = append(urls, "http://"+n.apiFront)
	}
	meta := strings.Join(urls, ",")
	for i, n := range nodes {
		id, dir := n.id, d.metaDir(n.id)
		if c.MetaDir != nil {
			dir = c.MetaDir(id)
		}
		argv := []string{"meta", "--id", id, "--dir", dir, "--api", n.api, "--raft", n.raft}
		if n.apiFront != n.api {
			argv = append(argv, "--api-advertise", n.apiFront)
		}
		if n.raftFront != n.raft {
			argv = append(argv, "--raft-advertise", n.raftFront)
		}
		if c.Meta > 1 {
			argv = append(argv, "--bootstrap-expect", strconv.Itoa(c.Meta), "--join", meta)
		}
		r := role(id, append(argv, c.MetaArgs...)...)
		r.API = f.MetaURLs[i]
		f.Meta = append(f.Meta, r)
	}
	for i := range c.Servers {
		id, addr := "server"+strconv.Itoa(i+1), take()
		argv := []string{"server", "--id", id, "--memory", c.ServerMemory.String(), "--meta", meta,
			"--low-memory", "0", "--pressure", "0"} // there is nowhere to move chunks to: all share this host
		var fronts []string
		fronted := false
		for n := range max(c.Rails, 1) {
			at := strings.Replace(addr, "127.0.0.1:", fmt.Sprintf("127.0.0.%d:", n+1), 1)
			listen := at
			if c.Scheme != "" {
				listen = c.Scheme + "://" + at
			}
			argv = append(argv, "--listen", listen)
			fronts = append(fronts, front(id, at))
			fronted = fronted || fronts[n] != at
		}
		if fronted {
			argv = append(argv, "--advertise", strings.Join(fronts, ","))
		}
		r := role(id, append(argv, c.ServerArgs...)...)
		r.Addr = addr
		f.Servers = append(f.Servers, r)
	}
	admin := take()
	argv := []string{"attach", c.Volume, "--nbd", nbd.Listen(), "--admin", admin, "--meta", meta}
	f.Client = role(clientID, append(argv, c.ClientArgs...)...)
	f.Client.Admin = "http://" + admin
	return f, nbd, err
}

// nbdAddr completes the NBD address: the export is the volume, a socket's path
// is absolute, port 0 becomes a free port.
func (c *Config) nbdAddr(p *ports) (nbdclient.Addr, error) {
	a := c.NBD
	a.Export = c.Volume
	if a.Network == "unix" {
		path, err := filepath.Abs(a.Address)
		if err != nil {
			return a, fmt.Errorf("cluster: NBD socket: %w", err)
		}
		a.Address = path
		return a, nil
	}
	if !c.anyNBDPort() {
		return a, nil
	}
	host, _, err := net.SplitHostPort(a.Address)
	if err != nil {
		return a, fmt.Errorf("cluster: NBD address: %w", err)
	}
	a.Address, err = p.take(host)
	return a, err
}

// anyNBDPort reports whether the NBD port is ours to choose.
func (c *Config) anyNBDPort() bool {
	return c.NBD.Network == "tcp" && strings.HasSuffix(c.NBD.Address, ":0")
}
