package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dmps/chaos/e2e/rig"
	"dmps/internal/exitcode"
)

// nextBin builds a program that is one cluster level ahead of the one under test, with a
// field in each command that this one does not know (package level).
func nextBin(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "dmps-next")
	ctx := testCtx(t)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "nextlevel", "-ldflags", "-s -w -X main.version=next", "-o", bin, "dmps/cmd/dmps")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the next version: %v\n%s", err, out)
	}
	return bin
}

// versions is what `dmps version --all --output json` promises at least.
type versions struct {
	Level   int
	Roles   []roleVersion
	Upgrade struct {
		Mixed    bool
		NextStep string   `json:"next_step"`
		TooOld   []string `json:"too_old"`
	}
}

type roleVersion struct {
	Role, Name, Version string
}

// unsaid is a role that has not told its version yet.
func unsaid(r roleVersion) bool { return r.Version == "" }

// next lists who runs the next version.
func (v versions) next() (names []string) {
	for _, r := range v.Roles {
		if r.Version == "next" {
			names = append(names, r.Name)
		}
	}
	slices.Sort(names)
	return names
}

func (c *cluster) versions() (v versions) {
	c.t.Helper()
	must(c.t, json.Unmarshal([]byte(c.works("version", "--all", "--output", "json").stdout), &v))
	return v
}

// replace ends a role and starts it again with the next version; it is over when the
// metadata says so.
func (c *cluster) replace(r *rig.Role, bin string) {
	c.t.Helper()
	must(c.t, c.Kill(*r))
	r.Argv = append([]string{bin}, r.Argv[1:]...)
	_, err := c.Restart(r)
	must(c.t, err)
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		v := c.versions()
		if slices.Contains(v.next(), r.ID) {
			return
		}
		if time.Since(begin) > commandLimit {
			c.t.Fatalf("%s never says that it was replaced: %+v", r.ID, v)
		}
	}
}

// tooOld runs a metadata node that must refuse to start, and say what to install.
func (c *cluster) tooOld(p *rig.Process) {
	c.t.Helper()
	select {
	case <-p.Done():
	case <-testCtx(c.t).Done():
		c.t.Fatalf("%s goes on", p.Log)
	}
	if said := rig.Tail(p.Log, 50); p.ExitCode() != exitcode.TooOld || !strings.Contains(said, "install dmps next") {
		c.t.Errorf("an older node ends with %d: %s", p.ExitCode(), said)
	}
}

// TestRollingUpgrade replaces metadata nodes and a memory server by the next version,
// one after another and under load. Older ones go on beside them, also under a leader
// of the next version, until an operator raises the cluster's level, which is refused
// before all nodes know it. Then older nodes refuse to begin. The commands are those of
// docs/runbook.md, "Upgrade".
func TestRollingUpgrade(t *testing.T) {
	if dmpsBin != "" && os.Getenv("DMPS_E2E_TRANSPORT") != "" {
		t.Skip("the next version is built without that transport")
	}
	c := start(t, threeMeta, small, func(c *rig.DevConfig) { c.Redundancy, c.Servers = "mirror:2", 3 })
	next := nextBin(t)
	ld := c.startLoad()
	is := c.versions()
	for begin := time.Now(); slices.ContainsFunc(is.Roles, unsaid) && time.Since(begin) < commandLimit; is = c.versions() {
		time.Sleep(50 * time.Millisecond)
	}
	if slices.ContainsFunc(is.Roles, unsaid) || is.Upgrade.Mixed || is.Upgrade.NextStep != "" || len(is.Roles) != 7 {
		t.Errorf("before: %+v", is)
	}
	level := is.Level
	last := c.leader()
	backup := filepath.Join(c.Config.Dir, "backup")
	c.works("meta", "backup", backup)

	for _, m := range c.allMeta() { // the followers first
		if m.ID == last.ID {
			continue
		}
		c.replace(m, next)
		c.voters(3)
		refused(t, c.dmps("meta", "raise", "--yes"), "not all metadata nodes are known", last.ID+": dmps")
		ld.more(500)
	}
	// The older node follows a leader of the next version.
	must(t, c.Kill(last))
	c.leader() // there is another one
	c.startMeta(role(t, c.Meta, last.ID))
	c.voters(3)
	if l := c.leader(); l.ID == last.ID || l.Argv[0] != next {
		t.Fatalf("%+v leads", l)
	}
	old := role(t, c.Meta, last.ID).PID
	c.works("volume", "create", "beside", "--size", "1MiB", "--redundancy", "none")
	c.replace(&c.Servers[0], next)
	c.awaitStatus(healthy, commandLimit)
	is = c.versions()
	if got := is.next(); len(got) != 3 || !is.Upgrade.Mixed || is.Level != level || !strings.Contains(is.Upgrade.NextStep, "install the newer version on "+last.ID) {
		t.Errorf("half way: %+v", is)
	}
	if said := c.dmps("status").stdout; !strings.Contains(said, "versions differ: dmps next knows levels 1 to 2: ") || !strings.Contains(said, is.Upgrade.NextStep) {
		t.Errorf("status half way: %s", said)
	}
	ld.more(500)
	c.voters(3) // none is behind
	c.allAlive()
	if !rig.Alive(old) {
		t.Error("the older node has ended")
	}

	c.replace(role(t, c.Meta, last.ID), next)
	c.voters(3)
	if is = c.versions(); !strings.Contains(is.Upgrade.NextStep, "dmps meta raise") || is.Level != level {
		t.Errorf("before the raise: %+v", is)
	}
	if said := c.works("meta", "raise", "--yes").stdout; !strings.Contains(said, "raised from level 1 to 2") {
		t.Errorf("raise: %s", said)
	}
	if is = c.versions(); is.Level != level+1 || is.Upgrade.NextStep != "" || len(is.Upgrade.TooOld) != 3 { // two servers and the client
		t.Errorf("after the raise: %+v", is)
	}
	c.works("volume", "create", "after", "--size", "1MiB", "--redundancy", "none")
	ld.more(500)

	// Who is too old does not begin, whether it was there or comes anew.
	m := role(t, c.Meta, last.ID)
	must(t, c.Kill(*m))
	m.Argv[0] = dmpsBin
	for range 2 {
		p, err := c.Restart(m)
		must(t, err)
		c.tooOld(p)
	}
	c.tooOld(c.strayMeta("meta4", "--id", "meta4", "--dir", filepath.Join(c.Config.Dir, "meta4")))
	m.Argv[0] = next
	c.startMeta(m)
	c.voters(3)
	c.works("meta", "verify-backup", backup)
	newer := filepath.Join(c.Config.Dir, "backup2")
	c.Config.Bin = next
	c.works("meta", "backup", newer)
	c.works("meta", "verify-backup", newer)
	c.Config.Bin = dmpsBin
	refused(t, c.dmps("meta", "verify-backup", newer), "install dmps next")
	ld.more(500)
	ld.flawless() // an older client and older servers among them
	c.allAlive()
}
