package e2e

import (
	"testing"
	"time"

	"dmps/chaos/e2e/rig"
)

// rebuildLimit bounds how long a volume of this suite may take to be whole
// again: grace, planning, and the copying of some megabytes.
const rebuildLimit = 40 * time.Second

// TestRoundsOfLossAndRebuild kills two of eight servers under load, waits until
// the others have rebuilt what they held, brings the two back empty, and kills
// the next two, three times. In the end no server holds what it held at first.
func TestRoundsOfLossAndRebuild(t *testing.T) {
	c := start(t, small, func(d *rig.DevConfig) { d.Servers, d.Grace = 8, "3s" })
	ld := c.startLoad()
	for round := range 3 {
		ld.more(3000)
		pair := []*rig.Role{&c.Servers[2*round], &c.Servers[2*round+1]}
		for _, s := range pair {
			must(t, c.Kill(*s))
		}
		c.awaitStatus(degraded, noticeLimit)
		c.awaitStatus(healthy, rebuildLimit)
		for _, s := range pair {
			_, err := c.Restart(s)
			must(t, err)
		}
	}
	ld.more(3000)
	ld.flawless()
}

// TestRestartedServersAreNewCapacity restarts every server, one after another,
// each time empty, and waits for the rebuild in between.
func TestRestartedServersAreNewCapacity(t *testing.T) {
	c := start(t, small, func(d *rig.DevConfig) { d.Servers, d.Redundancy, d.Grace = 4, "rs:2+1", "3s" })
	ld := c.startLoad()
	for i := range c.Servers {
		ld.more(2000)
		must(t, c.Kill(c.Servers[i]))
		_, err := c.Restart(&c.Servers[i])
		must(t, err)
		c.awaitStatus(degraded, noticeLimit)
		c.awaitStatus(healthy, rebuildLimit)
	}
	ld.more(2000)
	ld.flawless()
}
