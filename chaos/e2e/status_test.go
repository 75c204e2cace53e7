package e2e

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"dmps/internal/nbdclient"
)

func isEIO(err error) bool { return errors.Is(err, nbdclient.EIO) }

func TestStatusOfHealthyCluster(t *testing.T) {
	c := start(t, threeMeta)
	s, code := c.status()
	if code != healthy {
		t.Errorf("exit code %d", code)
	}
	if len(s.Volumes) != 1 || len(s.Servers) != 6 {
		t.Fatalf("%+v", s)
	}
	v := s.Volumes[0]
	if v.Name != "swap0" || v.State != "healthy" || v.Redundancy != "rs:4+2" || v.Groups == nil || *v.Groups < 1 || v.DegradedGroups == nil || *v.DegradedGroups != 0 {
		t.Errorf("%+v", v)
	}
	var ids []string
	for _, sv := range s.Servers {
		ids = append(ids, sv.ID)
		if sv.State == "" || sv.MemoryTotal == nil || *sv.MemoryTotal < 200*mib || *sv.MemoryTotal > 256*mib || sv.MemoryUsed == nil || *sv.MemoryUsed > *sv.MemoryTotal {
			t.Errorf("%+v", sv)
		}
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != 6 {
		t.Errorf("ids %q", ids)
	}
	// The same for people: the words are free, the code is not.
	if r := c.dmps("status"); r.code != healthy || !strings.Contains(r.stdout, "swap0") {
		t.Errorf("status for people: %v", r)
	}
}

// A write that was answered although a member is gone: the volume is degraded
// from then on, not from the next heartbeat on.
func TestDegradedBeforeTheFirstAnswer(t *testing.T) {
	for name, scheme := range schemes {
		t.Run(name, func(t *testing.T) {
			c := start(t, scheme)
			conn := c.dial()
			p := randomPage(1)
			if _, err := conn.WriteAt(p, 0); err != nil {
				t.Fatal(err)
			}
			if _, code := c.status(); code != healthy {
				t.Errorf("before: exit code %d", code)
			}
			// Of six servers a mirror of three may place on others: kill until fewer than
			// three are left, and no row can be complete.
			kill := 1
			if name == "mirror" {
				kill = 4
			}
			for _, s := range c.Servers[:kill] {
				must(t, c.Kill(s))
			}
			// A short row leaves members out; a long run of pages needs every one.
			var long []byte
			for i := range 256 {
				long = append(long, randomPage(byte(i))...)
			}
			if _, err := conn.WriteAt(long, mib); err != nil {
				if name == "mirror" && isEIO(err) {
					t.Skipf("refused with %v: no success without redundancy", err)
				}
				t.Fatal(err)
			}
			s, code := c.status()
			if code != degraded && code != lost {
				t.Errorf("a write was answered with less redundancy than promised, and status exits with %d: %+v", code, s)
			}
		})
	}
}

func TestStatusWithoutMeta(t *testing.T) {
	c := start(t)
	must(t, c.Kill(c.Meta[0]))
	r := c.dmps("status")
	if r.code == healthy || r.code == degraded || r.code == lost {
		t.Errorf("nobody answers, and status says: %v", r)
	}
	if !strings.Contains(r.stderr, strings.TrimPrefix(c.Meta[0].API, "http://")) {
		t.Errorf("the error does not say who did not answer: %v", r)
	}
}

// A volume whose client was killed is not healthy: what it wrote last it has perhaps
// not reported. Started again it is.
func TestStatusOfAClientThatIsGone(t *testing.T) {
	c := start(t, small)
	c.awaitStatus(healthy, noticeLimit)
	must(t, c.Kill(c.Client))
	c.awaitStatus(degraded, noticeLimit)
	c.reconnect()
	c.awaitStatus(healthy, noticeLimit)
}
