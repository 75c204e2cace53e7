package meta

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"dmps/client"
)

func TestHandshakeGolden(t *testing.T) {
	got := handshake{cluster: "c1", target: "meta1-x"}.encode()
	want := []byte("DMPR\x01\x02c1\x07meta1-x\x00")
	if !bytes.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for in, why := range map[string]string{
		string(want):                       "",
		"DMPR\x01\x04c1.7\x07meta1-x\x00":  "generation 7",
		"DMPR\x01\x02c2\x07meta1-x\x00":    "this is cluster c1",
		"DMPR\x01\x02c1\x07meta2-x\x00":    "this is node meta1-x",
		"DMPR\x01\x02c1\x07meta1-x\x03key": "authentication",
		"DMPR\x02\x02c1\x07meta1-x\x00":    "version 2",
		"GET / HTTP/1.1\r\n":               "not a metadata node's",
		"DMPR\x01\x02c1\x07meta":           "unexpected EOF",
	} {
		err := checkHandshake(strings.NewReader(in), "c1", 1, "h:1/meta1-x")
		if (err == nil) != (why == "") || err != nil && !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q", in, err, why)
		}
	}
}

func FuzzHandshake(f *testing.F) {
	f.Add([]byte("DMPR\x01\x02c1\x07meta1-x\x00"))
	f.Add([]byte("DMPR\x01\xff"))
	f.Add([]byte("GET /"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHandshake(bytes.NewReader(b))
		if err == nil && !bytes.HasPrefix(b, h.encode()) {
			t.Errorf("%q was read as %+v", b, h)
		}
	})
}

// A leader whose log hangs keeps its heartbeats, and would lead for ever. The
// watchdog silences it; the others decide on; it comes back as a follower.
func TestLeaderWithAStalledDisk(t *testing.T) {
	t.Parallel()
	disk := make([]sync.Mutex, 3)
	cfgs := threeConfigs(t)
	for i := range cfgs {
		cfgs[i].beforeLog = func() error {
			disk[i].Lock()
			defer disk[i].Unlock()
			return nil
		}
	}
	nodes := startAll(t, cfgs)
	first := leaderOf(t, nodes)
	c := newClient(t, time.Minute, nodes...)
	registerServers(t, c, 1)

	disk[first].Lock()
	if err := c.Register(t.Context(), serverInfo(5, 1)); err != nil {
		t.Errorf("no other node took over: %v", err)
	}
	if now := leaderOf(t, append(append([]*Node{}, nodes[:first]...), nodes[first+1:]...)); now < 0 {
		t.Error("no other leader")
	}
	disk[first].Unlock()
	eventually(t, "the old leader follows", func() bool {
		_, _, err := nodes[first].leading(t.Context())
		st, err2 := c.Status(t.Context())
		return errors.Is(err, errNoQuorum) && err2 == nil && st.State() == client.StateHealthy && nodes[first].ready()
	})
}
