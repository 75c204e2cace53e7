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
	"syscall"

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
	f := File{
		NBD: nbd.String(), Export: nbd.Export, Volume: c.Volume,
		Redundancy: c.Redundancy.String(), Layout: c.Layout.String(), SizeBytes: int64(c.Size),
		Dev: Role{ID: "dev", PID: os.Getpid(), Running: true, Argv: os.Args},
	}
	w := &planning{Config: c, d: d, p: p}
	var urls []string // as the roles reach them
	f.Meta, urls = w.metas()
	for _, m := range f.Meta {
		f.MetaURLs = append(f.MetaURLs, m.API)
	}
	meta := strings.Join(urls, ",")
	for i := range c.Servers {
		f.Servers = append(f.Servers, w.server("server"+strconv.Itoa(i+1), meta))
	}
	admin := w.take()
	argv := []string{"attach", c.Volume, "--nbd", nbd.Listen(), "--admin", admin, "--meta", meta}
	f.Client = w.role(clientID, append(argv, c.ClientArgs...)...)
	f.Client.Admin = "http://" + admin
	return f, nbd, w.err
}

// planning is a plan being made. err is the first thing that went wrong, and more.
type planning struct {
	*Config
	d   *folder
	p   *ports
	err error
}

func (w *planning) take() string {
	address, err := w.p.take("127.0.0.1")
	w.err = errors.Join(w.err, err)
	return address
}

func (w *planning) front(id, address string) string {
	fronted, err := w.Front(id, address)
	w.err = errors.Join(w.err, err)
	return fronted
}

func (w *planning) role(id string, argv ...string) Role {
	argv = slices.Concat([]string{w.Bin}, argv, w.RoleArgs, []string{"--pidfile", w.d.pidFile(id)})
	return Role{ID: id, Argv: argv, Log: w.d.logFile(id)}
}

// metas are the metadata nodes, and their URLs as the roles reach them.
func (w *planning) metas() (roles []Role, urls []string) {
	type node struct{ id, api, raft, apiFront, raftFront string }
	nodes := make([]node, w.Meta)
	for i := range nodes {
		n := node{id: "meta" + strconv.Itoa(i+1), api: w.take(), raft: w.take()}
		n.apiFront, n.raftFront = w.front(n.id, n.api), w.front(n.id, n.raft)
		nodes[i] = n
		urls = append(urls, "http://"+n.apiFront)
	}
	for _, n := range nodes {
		dir := w.d.metaDir(n.id)
		if w.MetaDir != nil {
			dir = w.MetaDir(n.id)
		}
		argv := []string{"meta", "--id", n.id, "--dir", dir, "--api", n.api, "--raft", n.raft}
		if n.apiFront != n.api {
			argv = append(argv, "--api-advertise", n.apiFront)
		}
		if n.raftFront != n.raft {
			argv = append(argv, "--raft-advertise", n.raftFront)
		}
		if w.Meta > 1 {
			argv = append(argv, "--bootstrap-expect", strconv.Itoa(w.Meta), "--join", strings.Join(urls, ","))
		}
		r := w.role(n.id, append(argv, w.MetaArgs...)...)
		r.API = "http://" + n.api
		roles = append(roles, r)
	}
	return roles, urls
}

// server is a memory server.
func (w *planning) server(id, meta string) Role {
	addr := w.take()
	argv := []string{"server", "--id", id, "--memory", w.ServerMemory.String(), "--meta", meta,
		"--low-memory", "0", "--pressure", "0"} // there is nowhere to move chunks to: all share this host
	var fronts []string
	fronted := false
	for n := range max(w.Rails, 1) {
		at := strings.Replace(addr, "127.0.0.1:", fmt.Sprintf("127.0.0.%d:", n+1), 1)
		listen := at
		if w.Scheme != "" {
			listen = w.Scheme + "://" + at
		}
		argv = append(argv, "--listen", listen)
		fronts = append(fronts, w.front(id, at))
		fronted = fronted || fronts[n] != at
	}
	if fronted {
		argv = append(argv, "--advertise", strings.Join(fronts, ","))
	}
	r := w.role(id, append(argv, w.ServerArgs...)...)
	r.Addr = addr
	return r
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
		return a, unused(a)
	}
	if !c.anyNBDPort() {
		return a, unused(a)
	}
	host, _, err := net.SplitHostPort(a.Address)
	if err != nil {
		return a, fmt.Errorf("cluster: NBD address: %w", err)
	}
	a.Address, err = p.take(host)
	return a, err
}

// unused refuses an address at which somebody listens, before anything is started. The
// socket of a program that is gone is no hindrance.
func unused(a nbdclient.Addr) error {
	conn, err := net.Dial(a.Network, a.Address)
	if err != nil {
		return nil // the client says what is wrong with it, if anything
	}
	return errors.Join(fmt.Errorf("cluster: NBD address %s: another program serves there: take another address: %w", a.Address, syscall.EADDRINUSE), conn.Close())
}

// anyNBDPort reports whether the NBD port is ours to choose.
func (c *Config) anyNBDPort() bool {
	return c.NBD.Network == "tcp" && strings.HasSuffix(c.NBD.Address, ":0")
}
