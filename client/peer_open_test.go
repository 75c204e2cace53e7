package client

import (
	"testing"
	"testing/synctest"
	"time"

	"dmps/raid"
)

// A server that holds many chunks of a volume has the time to open for each: all of
// them one by one would take five seconds here, and an open has one.
func TestManyChunksAreOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSlowNet(2)
		f.opens = 50 * time.Millisecond
		const groups = 100
		l := f.layout(raid.LayoutLog, raid.Geometry{K: 1, M: 1}, 64, groups, 8)
		begin := time.Now()
		v := openTest(t, f, l, func(c *Config) { c.DialTimeout = time.Second })
		if d := time.Since(begin); d > 2*time.Second {
			t.Errorf("opened after %v", d)
		}
		if s := v.Report().State; s != StateHealthy {
			t.Errorf("%v", s)
		}
		closeTest(t, v)
	})
}
