package server

import (
	"context"
	"strings"
	"testing"
	"time"

	"dmps/transport"
	"dmps/transport/rails"
	"dmps/transport/tcp"
)

// A server with several addresses tells all of them, in order, and is at each.
func TestListenAtSeveral(t *testing.T) {
	s := start(t, Config{Cluster: "c", Listen: "127.0.0.1:0,127.0.0.2:0"})
	addrs, err := rails.Split(s.Addr())
	if err != nil || len(addrs) != 2 || !strings.HasPrefix(addrs[0], "tcp://127.0.0.1:") || !strings.HasPrefix(addrs[1], "tcp://127.0.0.2:") {
		t.Fatalf("address %q, %v", s.Addr(), err)
	}
	var d tcp.Dialer
	defer d.Close()
	for _, a := range addrs {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, w, err := d.Dial(ctx, a, transport.Hello{Cluster: "c", Volume: 1, Epoch: 1, Mode: transport.ModeReader}, nil)
		if err != nil || w.Incarnation != uint64(s.Incarnation()) {
			t.Errorf("%s: %+v, %v", a, w, err)
		}
	}
	s = start(t, Config{Cluster: "c", Listen: "127.0.0.1:0", Advertise: "10.0.0.1:7301,10.1.0.1:7301"})
	if s.Addr() != "tcp://10.0.0.1:7301,tcp://10.1.0.1:7301" {
		t.Errorf("address %q", s.Addr())
	}
	for name, c := range map[string]Config{
		"one that others can reach": {Listen: "127.0.0.1:0,192.0.2.1:1"},
		"one twice":                 {Listen: "127.0.0.1:7301,127.0.0.1:7301"},
		"an empty one":              {Listen: "127.0.0.1:0,"},
		"one that cannot be had":    {Listen: "127.0.0.1:0,192.0.2.1:1", InsecureNetwork: true},
		"too many":                  {Listen: "127.0.0.1:0", Advertise: "a:1,b:1,c:1,d:1,e:1,f:1,g:1,h:1,i:1"},
		"more than a rebuild takes": {Listen: "127.0.0.1:0", Advertise: strings.Repeat("x", 120) + ":1," + strings.Repeat("y", 120) + ":1"},
	} {
		c.ID, c.Memory, c.AllowSwappable = "a", 1<<20, true
		if s, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
			_ = s.Close(t.Context())
		}
	}
}
