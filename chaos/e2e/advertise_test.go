package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"dmps/chaos/e2e/rig"
)

// TestWrongAdvertise starts servers that tell others a wrong address: one where nobody
// is, and that of another server. Neither is up, and log and status say why.
func TestWrongAdvertise(t *testing.T) {
	c := start(t, small)
	other := c.Servers[0]
	for id, x := range map[string]struct{ advertise, why string }{
		"lost":    {"127.0.0.1:1", "connection refused"},
		"twisted": {other.Addr, `server "` + other.ID + `" answers there`},
	} {
		p, err := rig.Start(rig.Spec{Name: id, Log: filepath.Join(c.Config.Dir, id+".out"),
			Argv: []string{dmpsBin, "server", "--id", id, "--memory", "64MiB", "--listen", "127.0.0.1:0", "--advertise", x.advertise, "--meta", c.MetaURLs()}})
		must(t, err)
		c.said(p, "server "+id+" was not found at tcp://"+x.advertise)
		if end := rig.Tail(p.Log, 50); !strings.Contains(end, strings.ReplaceAll(x.why, `"`, `\"`)) && !strings.Contains(end, x.why) {
			t.Errorf("%s does not say why: %s", id, end)
		}
		if r := c.dmps("status"); r.code != healthy || !strings.Contains(r.stdout, "server "+id+" was refused: it was not found at tcp://"+x.advertise) || !strings.Contains(r.stdout, x.why) {
			t.Errorf("status beside %s: %v", id, r)
		}
		if r := c.works("server", "list"); strings.Contains(r.stdout, id) {
			t.Errorf("%s is listed: %s", id, r.stdout)
		}
		must(t, p.Stop())
	}
}
