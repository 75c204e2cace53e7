package e2e

import (
	"testing"

	"dmps/chaos/e2e/rig"
	"dmps/client/nbd/nbdtest"
)

// The front end's own tests run against memory; here the same clients and
// corner cases meet the whole path, on both media.
func TestProtocol(t *testing.T) {
	for name, medium := range map[string]func(*rig.DevConfig){
		"unix": func(*rig.DevConfig) {},
		"tcp":  func(c *rig.DevConfig) { c.NBD = "127.0.0.1:0" },
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, medium, small)
			nbdtest.Peers(t, c.NBD)
			c.allAlive()
			if _, code := c.status(); code != healthy {
				t.Errorf("status exits with %d", code)
			}
		})
	}
}
