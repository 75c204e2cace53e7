//go:build fabric && cgo

package fabric_test

import (
	"testing"
	"time"

	"dmps/transport"
)

// A session that nobody uses costs next to nothing, on both sides, also after it was
// busy.
func TestIdle(t *testing.T) {
	for _, p := range []string{"tcp", "shm", "verbs"} {
		t.Run(p, func(t *testing.T) {
			c := startChild(t, childSpec{Provider: p, Window: 16, Memory: 16 << 20})
			u := newUser(t)
			conn := u.dial(c.addr, 1)
			u.fill(1)
			for range 100 {
				u.do(conn, transport.OpWrite)
			}
			const d = 500 * time.Millisecond
			limit := d / 20
			if p == "verbs" { // runs in emulated guests, where each look takes twenty times as long
				limit = d / 4
			}
			// Who looks for ever does it in each rest; a busy machine disturbs one.
			for try := 1; ; try++ {
				time.Sleep(100 * time.Millisecond)
				server, client := c.cpu(t), ownCPU()
				time.Sleep(d)
				server, client = c.cpu(t)-server, ownCPU()-client
				t.Logf("in %v of rest: %v of a core's time at the server, %v at the client", d, server, client)
				if server <= limit && client <= limit {
					break
				}
				if try == 3 {
					t.Fatalf("more than %v", limit)
				}
			}
		})
	}
}
