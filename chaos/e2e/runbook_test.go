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
)

// recipe gives the commands of a section of the runbook, without remarks.
func recipe(t *testing.T, title string) (lines []string) {
	t.Helper()
	b, err := os.ReadFile("../../docs/runbook.md")
	must(t, err)
	_, section, found := strings.Cut(string(b), "\n## "+title+"\n")
	if !found {
		t.Fatalf("the runbook has no section %q", title)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	fenced := false
	for line := range strings.Lines(section) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case fenced:
			line, _, _ = strings.Cut(line, " #")
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	if len(lines) == 0 {
		t.Fatalf("section %q has no commands", title)
	}
	return lines
}

// asking are commands that ask before they do something.
var asking = []string{"dmps meta restore", "dmps meta leave", "dmps meta raise", "dmps server purge"}

// lives are the incarnations of the servers.
func (c *cluster) lives() (all [3]uint64) {
	c.t.Helper()
	var servers []struct{ Incarnation uint64 }
	must(c.t, json.Unmarshal([]byte(c.works("server", "list", "--output", "json").stdout), &servers))
	for i := range all {
		all[i] = servers[i].Incarnation
	}
	return all
}

// follow does what a line of the runbook says: with the places of this cluster for those
// of the text, and without a service manager.
func (c *cluster) follow(line string) {
	c.t.Helper()
	c.t.Log(line)
	switch line {
	case "dmps status": // the text says to wait until all is well
		c.awaitStatus(healthy, rebuildLimit)
		return
	case "systemctl restart dmps-meta":
		lead := c.leader()
		nodes := slices.DeleteFunc(c.allMeta(), func(m *rig.Role) bool { return m.ID == lead.ID })
		for _, m := range append(nodes, role(c.t, c.Meta, lead.ID)) {
			must(c.t, c.Kill(*m))
			c.startMeta(m)
			c.voters(3)
		}
		return
	case "systemctl restart dmps-server":
		was := c.lives()
		must(c.t, c.Kill(c.Servers[0]))
		_, err := c.Restart(&c.Servers[0])
		must(c.t, err)
		for begin := time.Now(); c.lives() == was; time.Sleep(50 * time.Millisecond) {
			if time.Since(begin) > commandLimit {
				c.t.Fatal("a server that was started again does not come back")
			}
		}
		c.awaitStatus(healthy, rebuildLimit)
		return
	case "systemctl restart dmps-attach@swap0", "dmps attach swap0":
		if rig.Alive(c.Client.PID) {
			must(c.t, c.Kill(c.Client))
		}
		must(c.t, c.reconnect().Close())
		return
	}
	names := []string{"/backup/dmps-meta", filepath.Join(c.Config.Dir, "backup"), " s3", " server3"}
	for i, at := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} {
		names = append(names, at+":7200", flagOf(c.t, c.Meta[i], "--api"), at+":7201", flagOf(c.t, c.Meta[i], "--raft"))
	}
	which := &c.Meta[0]
	if _, id, ok := strings.Cut(line, " --id "); ok {
		which = role(c.t, c.Meta, strings.Fields(id)[0])
	}
	names = append(names, "/var/lib/dmps/meta", flagOf(c.t, *which, "--dir"))
	args := strings.Fields(strings.NewReplacer(names...).Replace(line))
	switch {
	case args[0] != "dmps":
		c.t.Fatalf("this test does not know how to do %q", line)
	case strings.HasPrefix(line, "dmps meta --id "):
		which.Argv = append([]string{dmpsBin}, args[1:]...)
		c.startMeta(which)
		c.t.Cleanup(func() { // dmps dev does not know it by this command line
			if rig.Alive(which.PID) {
				must(c.t, c.Kill(*which))
			}
		})
		return
	case slices.ContainsFunc(asking, func(p string) bool { return strings.HasPrefix(line, p) }) && !strings.Contains(line, "--dry-run"):
		args = append(args, "--yes")
	}
	c.works(args[1:]...)
}

// TestRunbook follows the runbook, line by line, where metadata is upgraded, a node of it
// is replaced, and all is restored from the backup that the first of these recipes made.
func TestRunbook(t *testing.T) {
	c := start(t, threeMeta, small, func(c *rig.DevConfig) { c.Redundancy, c.Servers = "mirror:2", 3 })
	ld := c.startLoad()
	ld.more(200)
	if r := ld.Stop(); len(r.Violations) > 0 {
		t.Fatal(r.Err())
	}
	for _, line := range recipe(t, "Upgrade") {
		c.follow(line)
	}
	ld.check(c.dial())

	c.killMeta(true, *role(t, c.Meta, "meta2"))
	for _, line := range recipe(t, "A metadata node is lost") {
		if strings.HasPrefix(line, "dmps meta leave ") {
			c.voters(3)
		}
		c.follow(line)
	}
	c.voters(2)

	must(t, c.Kill(c.Client))
	must(t, c.Kill(*role(t, c.Meta, "meta2")))
	c.killMeta(true, *role(t, c.Meta, "meta1"), *role(t, c.Meta, "meta3"))
	for _, line := range recipe(t, "All metadata disks are lost") {
		c.follow(line)
		if strings.HasPrefix(line, "dmps meta --id ") {
			c.voters(1)
		}
	}
	ld.check(c.dial())
	c.awaitStatus(healthy, time.Minute)
}
