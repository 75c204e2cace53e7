package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dmps/chaos/e2e/rig"
	"dmps/internal/exitcode"
	"dmps/internal/nbdclient"
)

// metaOutage is for how long all of meta is gone in TestMetaLoss:
// DMPS_E2E_META_OUTAGE, a duration.
var metaOutage = func() time.Duration {
	v := os.Getenv("DMPS_E2E_META_OUTAGE")
	if v == "" {
		return 8 * time.Second
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		panic("DMPS_E2E_META_OUTAGE: " + err.Error())
	}
	return d
}()

// flagOf is the value of a flag in a role's command line.
func flagOf(t *testing.T, r rig.Role, name string) string {
	t.Helper()
	i := slices.Index(r.Argv, name)
	if i < 0 || i+1 == len(r.Argv) {
		t.Fatalf("%s has no %s: %v", r.ID, name, r.Argv)
	}
	return r.Argv[i+1]
}

// killMeta kills metadata nodes, and with them their disks if so wanted.
func (c *cluster) killMeta(disks bool, nodes ...rig.Role) {
	c.t.Helper()
	for _, m := range nodes {
		if rig.Alive(m.PID) {
			must(c.t, c.Kill(m))
		}
		if disks {
			must(c.t, os.RemoveAll(flagOf(c.t, m, "--dir")))
		}
	}
}

// startMeta starts metadata nodes again by their command lines.
func (c *cluster) startMeta(nodes ...*rig.Role) {
	c.t.Helper()
	for _, m := range nodes {
		_, err := c.Restart(m)
		must(c.t, err)
	}
}

func (c *cluster) allMeta() []*rig.Role {
	var all []*rig.Role
	for i := range c.Meta {
		all = append(all, &c.Meta[i])
	}
	return all
}

// works runs a command that must succeed.
func (c *cluster) works(args ...string) result {
	c.t.Helper()
	r := c.dmps(args...)
	if r.code != 0 {
		c.t.Fatalf("dmps %s: %v", strings.Join(args, " "), r)
	}
	return r
}

// voters are the ids of the metadata nodes by name, once there are so many and
// all of them are up.
func (c *cluster) voters(n int) map[string]string {
	c.t.Helper()
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		r := c.dmps("meta", "list", "--output", "json")
		var nodes []struct{ Name, ID, State string }
		up := 0
		if r.code == 0 {
			if err := json.Unmarshal([]byte(r.stdout), &nodes); err != nil {
				c.t.Fatalf("meta list: %v: %v", err, r)
			}
		}
		for _, n := range nodes {
			if n.State == "up" {
				up++
			}
		}
		if len(nodes) == n && up == n {
			ids := map[string]string{}
			for _, n := range nodes {
				ids[n.Name] = n.ID
			}
			return ids
		}
		if time.Since(begin) > commandLimit {
			c.t.Fatalf("never %d metadata nodes: %v", n, r)
		}
	}
}

// awaitEnd waits until a process has ended by itself.
func (c *cluster) awaitEnd(r rig.Role) {
	c.t.Helper()
	for begin := time.Now(); rig.Alive(r.PID); time.Sleep(20 * time.Millisecond) {
		if time.Since(begin) > commandLimit {
			c.t.Fatalf("%s (pid %d) still lives", r.ID, r.PID)
		}
	}
}

// TestMetaLoss loses a minority of the metadata nodes, the leader, all of them,
// and a memory server while nobody is there to decide. Nothing of it is seen by
// who pages; when meta is back the volume is made whole, by itself.
func TestMetaLoss(t *testing.T) {
	c := start(t, threeMeta, small, func(d *rig.DevConfig) { d.Servers, d.Grace = 7, "3s" })
	ld := c.startLoad()
	leader := c.leader()
	rest := slices.DeleteFunc(slices.Clone(c.Meta), func(m rig.Role) bool { return m.ID == leader.ID })
	for _, m := range []rig.Role{rest[0], leader, rest[1]} {
		must(t, c.Kill(m))
		ld.more(1500)
	}
	must(t, c.Kill(c.Servers[6]))
	gone := time.Now()
	for time.Since(gone) < metaOutage {
		ld.more(500)
	}
	if r := c.dmps("status", "--timeout", "300ms"); r.code != exitcode.Unavailable {
		t.Errorf("nobody answers: %v", r)
	}
	ld.flawless() // every page is readable, and holds what it should
	again := c.startLoad()
	for i := range c.Meta {
		c.startMeta(&c.Meta[i])
	}
	c.awaitStatus(healthy, rebuildLimit)
	again.more(2000)
	again.flawless()
}

// TestMetaDiskReplaced loses a metadata node with its disk; the same command
// line with an empty folder replaces it, and it counts: another one may fail
// then. Meanwhile the client is killed while nobody decides, waits, and goes on.
func TestMetaDiskReplaced(t *testing.T) {
	c := start(t, threeMeta, small)
	ld := c.startLoad()
	before := c.voters(3)
	c.killMeta(true, c.Meta[0])
	ld.more(1000)
	c.startMeta(&c.Meta[0])
	for begin := time.Now(); c.voters(3)["meta1"] == before["meta1"]; time.Sleep(50 * time.Millisecond) {
		if time.Since(begin) > commandLimit {
			t.Fatalf("meta1 is not replaced: %v", c.voters(3))
		}
	}
	must(t, c.Kill(c.Meta[1]))
	c.awaitStatus(healthy, noticeLimit) // decided by the new node and one old one
	ld.more(1000)

	must(t, c.Kill(c.Meta[2]))
	must(t, c.Kill(c.Client))
	if r := ld.Stop(); len(r.Violations) > 0 {
		t.Errorf("wrong data before the end: %v", r.Err())
	}
	client := c.Client
	client.Argv = append(slices.Clone(client.Argv), "--timeout", "500ms") // it says sooner that it waits
	p, err := c.Restart(&client)
	must(t, err)
	c.Client.PID = client.PID
	must(t, p.WaitFor(testCtx(t), func() error {
		if !strings.Contains(rig.Tail(p.Log, 50), "waiting for the metadata service") {
			return os.ErrNotExist
		}
		return nil
	}))
	if !rig.Alive(p.PID()) {
		t.Fatal("the client does not wait for a decision")
	}
	c.startMeta(&c.Meta[1], &c.Meta[2])
	addr, err := nbdclient.ParseURI(c.NBD)
	must(t, err)
	var conn *nbdclient.Conn
	ctx := testCtx(t)
	must(t, p.WaitFor(ctx, func() (err error) {
		conn, err = nbdclient.Dial(ctx, addr)
		return err
	}))
	bound(t, conn)
	ld.check(conn)
}

// TestRestoreFromBackup loses all metadata disks. First somebody starts the nodes
// with empty folders: a new cluster, which must harm nobody. Then the backup is
// restored, and the volume is there, with its data.
func TestRestoreFromBackup(t *testing.T) {
	c := start(t, threeMeta, small)
	ld := c.startLoad()
	file := filepath.Join(c.Config.Dir, "backup")
	c.works("meta", "backup", file)
	var was struct {
		Cluster string
		Bytes   int64
		Volumes int
		Servers int
	}
	must(t, json.Unmarshal([]byte(c.works("meta", "verify-backup", file, "--output", "json").stdout), &was))
	if st, err := os.Stat(file); err != nil || st.Size() != was.Bytes || was.Volumes != 1 || was.Servers != 6 {
		t.Errorf("backup: %+v, %v", was, err)
	}
	refused(t, c.dmps("meta", "backup", file), "--yes")                // nobody is there to be asked
	refused(t, c.dmps("meta", "verify-backup", os.Args[0]), "damaged") // no backup at all

	c.killMeta(true, c.Meta...)
	c.startMeta(c.allMeta()...)
	c.voters(3)
	ld.more(1000)
	time.Sleep(3 * time.Second) // longer than between two renewals
	ld.more(1000)
	if s, _ := c.status(); len(s.Volumes) != 0 || len(s.Servers) != 0 {
		t.Errorf("a new cluster knows of the old one's: %+v", s)
	}

	c.killMeta(true, c.Meta...)
	dir := flagOf(t, c.Meta[0], "--dir")
	restore := []string{"meta", "restore", file, "--dir", dir, "--id", "meta1", "--raft", flagOf(t, c.Meta[0], "--raft")}
	refused(t, c.dmps(restore...), "--yes")
	r := c.works(append(restore, "--yes")...)
	if !strings.Contains(r.stdout, was.Cluster) || !strings.Contains(r.stdout, "dmps meta --id meta1 --dir "+dir) {
		t.Errorf("restore: %v", r)
	}
	refused(t, c.dmps(append(restore, "--yes")...), "not empty")
	c.startMeta(&c.Meta[0])
	// The client paged all the time; its lease is from before.
	c.awaitEnd(c.Client)
	if r := ld.Stop(); len(r.Violations) > 0 {
		t.Errorf("wrong data before the end: %v", r.Err())
	}
	conn := c.reconnect()
	ld.check(conn)
	c.startMeta(&c.Meta[1], &c.Meta[2])
	c.voters(3)
	c.awaitStatus(healthy, rebuildLimit)
}

// TestRecoverFromOneDisk loses two of three metadata disks for good.
func TestRecoverFromOneDisk(t *testing.T) {
	c := start(t, threeMeta, small)
	ld := c.startLoad()
	before := c.voters(3)
	dir := flagOf(t, c.Meta[1], "--dir")
	again := []string{"meta", "recover", "--dir", dir, "--raft", flagOf(t, c.Meta[1], "--raft")}
	refused(t, c.dmps(append(again, "--yes")...), "runs on this folder")
	c.killMeta(true, c.Meta[0], c.Meta[2])
	ld.more(1000)
	c.killMeta(false, c.Meta[1])
	ld.more(1000)
	if r := c.works(append(again, "--dry-run")...); !strings.Contains(r.stdout, "1 volume, 6 memory servers") {
		t.Errorf("dry run: %v", r)
	}
	refused(t, c.dmps(again...), "--yes")
	c.works(append(again, "--yes")...)
	c.startMeta(&c.Meta[1])
	c.awaitEnd(c.Client)
	if r := ld.Stop(); len(r.Violations) > 0 {
		t.Errorf("wrong data before the end: %v", r.Err())
	}
	conn := c.reconnect()
	ld.check(conn)
	c.startMeta(&c.Meta[0], &c.Meta[2])
	after := c.voters(3)
	if after["meta2"] != before["meta2"] || after["meta1"] == before["meta1"] {
		t.Errorf("nodes %v became %v", before, after)
	}
	// The new nodes hold what was decided: the survivor may go.
	must(t, c.Kill(c.Meta[1]))
	c.awaitStatus(healthy, noticeLimit)
	w := ld.ledger.Start(t.Context(), 8, conn)
	for begin := time.Now(); w.Completed() < 2000 && time.Since(begin) < commandLimit; {
		time.Sleep(time.Millisecond)
	}
	if err := w.Stop().Err(); err != nil {
		t.Errorf("after the recovery: %v", err)
	}
	ld.check(conn)
}

// TestForeignNodeAndFullArena: a metadata node that belongs to another cluster is
// turned away, and so is a volume for which the servers have no room. Nobody who
// pages notices.
func TestForeignNodeAndFullArena(t *testing.T) {
	c := start(t, small)
	ld := c.startLoad()
	dir := filepath.Join(c.Config.Dir, "foreign")
	node := []string{dmpsBin, "meta", "--id", "meta9", "--dir", dir, "--api", "127.0.0.1:0", "--raft", "127.0.0.1:0"}
	run := func(argv ...string) *rig.Process {
		t.Helper()
		p, err := rig.Start(rig.Spec{Name: "foreign node", Log: filepath.Join(c.Config.Dir, "foreign.out"), Argv: argv})
		must(t, err)
		t.Cleanup(func() {
			if err := p.Stop(); err != nil {
				t.Error(err)
			}
		})
		return p
	}
	said := func(p *rig.Process, what string) {
		t.Helper()
		must(t, p.WaitFor(testCtx(t), func() error {
			if !strings.Contains(rig.Tail(p.Log, 50), what) {
				return os.ErrNotExist
			}
			return nil
		}))
	}
	p := run(node...)
	said(p, "leading the metadata service")
	must(t, p.Stop())
	p = run(append(node, "--join", c.MetaURLs())...)
	select {
	case <-p.Done():
	case <-time.After(commandLimit):
		t.Fatal("a node of another cluster is not turned away")
	}
	if log := rig.Tail(p.Log, 5); p.Exited() == "exit status 0" || !strings.Contains(log, "cluster") || !strings.Contains(log, "empty folder") {
		t.Errorf("%s: %s", p.Exited(), log)
	}
	if ids := c.voters(1); ids["meta1"] == "" {
		t.Errorf("metadata nodes: %v", ids)
	}

	refused(t, c.dmps("volume", "create", "big", "--size", "2GiB", "--redundancy", "rs:4+2", "--failure-domain", "server"), "missing")
	// What fits takes nearly all; then nothing fits, until it is given back.
	fits := []string{"volume", "create", "fits", "--size", "600MiB", "--redundancy", "rs:4+2", "--failure-domain", "server"}
	c.works(fits...)
	refused(t, c.dmps("volume", "create", "more", "--size", "200MiB", "--redundancy", "rs:4+2", "--failure-domain", "server"), "missing")
	ld.more(1000)
	c.works("volume", "delete", "fits", "--yes")
	for begin := time.Now(); c.dmps(fits...).code != 0; time.Sleep(100 * time.Millisecond) {
		if time.Since(begin) > commandLimit {
			t.Fatal("the memory of a deleted volume never comes back")
		}
	}
	ld.flawless()
}
