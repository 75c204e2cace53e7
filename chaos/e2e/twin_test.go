package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"dmps/chaos/e2e/rig"
)

// TestTwinServer starts a second server under the id of one that lives: it ends, and
// says where the other is. While the first is silent for a moment a twin waits, and
// nothing counts as lost.
func TestTwinServer(t *testing.T) {
	c := start(t, small)
	ld := c.startLoad()
	twin := func(name string) *rig.Process {
		t.Helper()
		p, err := rig.Start(rig.Spec{Name: name, Log: filepath.Join(c.Config.Dir, name+".out"),
			Argv: []string{dmpsBin, "server", "--id", "server1", "--memory", "64MiB", "--listen", "127.0.0.1:0", "--meta", c.MetaURLs()}})
		must(t, err)
		t.Cleanup(func() {
			if err := p.Stop(); err != nil {
				t.Error(err)
			}
		})
		return p
	}
	first := role(t, c.Servers, "server1")
	p := twin("twin1")
	<-p.Done()
	if end := rig.Tail(p.Log, 20); !strings.Contains(end, "server server1 lives at tcp://127.0.0.1:") || !strings.Contains(end, "choose another --id") {
		t.Errorf("a twin ended with: %s", end)
	}
	must(t, c.Freeze(*first))
	p = twin("twin2")
	c.said(p, "is not given up yet")
	must(t, c.Thaw(*first))
	must(t, p.Stop())
	c.awaitStatus(healthy, noticeLimit)
	if r := c.works("events", "--output", "json"); strings.Contains(r.stdout, "members-lost") || strings.Contains(r.stdout, "server-restarted") {
		t.Errorf("a twin cost members: %s", r.stdout)
	}
	ld.more(1000)
	ld.flawless()
}
