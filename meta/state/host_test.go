package state

import (
	"strings"
	"testing"

	"dmps/raid"
)

// An id goes over to a server that shows that the one before ended, or when that one
// is down; else both are told of each other.
func TestIDBelongsToAHost(t *testing.T) {
	here, boot2, clone := Host{"m1", "b1"}, Host{"m1", "b2"}, Host{"m2", "b1"}
	first := Register{ID: "s", Incarnation: 1, Addr: "tcp://h1:1", Host: here, Folder: "f", MemoryTotal: 1 << 30}
	next := func(change func(*Register)) *Register {
		r := first
		r.Incarnation = 2
		change(&r)
		return &r
	}
	for name, c := range map[string]struct {
		next *Register
		ok   bool
	}{
		"the next life":                          {next(func(*Register) {}), true},
		"the next life, although heard":          {next(func(r *Register) { r.Heard = true }), true},
		"elsewhere, with its folder":             {next(func(r *Register) { r.Addr = "tcp://h1:2"; r.Heard = true }), true},
		"with another folder":                    {next(func(r *Register) { r.Folder = "g" }), false},
		"without folder, at its address":         {next(func(r *Register) { r.Folder = "" }), true},
		"without folder, elsewhere":              {next(func(r *Register) { r.Folder, r.Addr = "", "tcp://h1:2" }), false},
		"in another boot":                        {next(func(r *Register) { r.Host = boot2 }), false},
		"on another machine with all it has":     {next(func(r *Register) { r.Host = clone }), false},
		"the same while it is heard":             {next(func(r *Register) { r.Host, r.Heard = clone, true }), false},
		"unknown machine, same boot and address": {next(func(r *Register) { r.Host.Machine = "" }), true},
	} {
		s := cluster(t, 2, 1<<30, nil)
		must(t, s, &Command{Register: &first})
		_, err := s.Apply(&Command{Register: c.next})
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			want := IDAwaited
			if c.next.Heard {
				want = IDInUse
			}
			r, ok := err.(*Refusal)
			if !ok || r.Code != want || !strings.Contains(r.Message, first.Addr) || !strings.Contains(r.Message, c.next.Host.String()) {
				t.Errorf("%s: %v", name, err)
			}
			must(t, s, &Command{SetServer: &SetServer{ID: "s", Incarnation: 1, State: ServerDown}})
			c.next.Heard = false
			must(t, s, &Command{Register: c.next}) // it is down: anybody may
		}
	}
}

// A holder of the same name on another machine, or after a reboot, is another holder.
func TestLeaseBelongsToAHost(t *testing.T) {
	s := cluster(t, 4, 1<<30, nil)
	create(t, s, CreateVolume{Name: "v", Pages: 1000, Geometry: raid.Geometry{K: 2, M: 1}})
	at := Attach{Name: "v", Holder: "host/device/v", Host: Host{"m1", "b1"}}
	must(t, s, &Command{Attach: &at})
	must(t, s, &Command{Attach: &at}) // the same again
	for _, h := range []Host{{"m2", "b1"}, {"m1", "b2"}} {
		other := at
		other.Host = h
		_, err := s.Apply(&Command{Attach: &other})
		if r, ok := err.(*Refusal); !ok || r.Code != InUse || !strings.Contains(r.Message, "m1") || !strings.Contains(r.Message, h.Machine) {
			t.Errorf("by %v: %v", h, err)
		}
		v, _ := s.VolumeByName("v")
		other.Expired = v.Lease.Epoch
		must(t, s, &Command{Attach: &other})
		other.Expired = 0
		at.Takeover = true
		must(t, s, &Command{Attach: &at})
		at.Takeover = false
	}
}

// A server that is down because it accepts nobody is heard all the time, and holds
// what it was lent: neither a twin nor an older life of it gets its id meanwhile.
func TestDeafServerKeepsItsID(t *testing.T) {
	s := cluster(t, 2, 1<<30, nil)
	first := Register{ID: "s", Incarnation: 1, Addr: "tcp://h1:1", Host: Host{"m1", "b1"}, Folder: "f", MemoryTotal: 1 << 30}
	must(t, s, &Command{Register: &first})
	second := first
	second.Incarnation = 2
	must(t, s, &Command{Register: &second})
	must(t, s, &Command{SetServer: &SetServer{ID: "s", Incarnation: 2, State: ServerDown}})
	twin := first
	twin.Incarnation, twin.Host = 3, Host{"m2", "b2"}
	for name, c := range map[string]Register{"a twin": twin, "an older life": first} {
		c.Heard = true
		if _, err := s.Apply(&Command{Register: &c}); err == nil {
			t.Fatalf("%s gets the id of a server that is heard", name)
		}
	}
	twin.Heard = false
	must(t, s, &Command{Register: &twin})
}

// TestStillSuspect: that a suspect server is silent for longer says nothing of one that was
// heard meanwhile, and what is known of a silence ends with it.
func TestStillSuspect(t *testing.T) {
	s := cluster(t, 1, 1<<30, nil)
	sv := s.Servers["s00"]
	say := func(c SetServer) {
		c.ID, c.Incarnation = sv.ID, 1
		must(t, s, &Command{Now: 7, SetServer: &c})
	}
	longer := SetServer{State: ServerSuspect, Silent: 9000, Together: true, Still: true}
	say(longer)
	if sv.State != ServerUp || sv.Silent != 0 || sv.Together {
		t.Errorf("a server that is up: %+v", sv)
	}
	say(SetServer{State: ServerSuspect, Silent: 2000})
	events := s.LastEvent()
	say(longer)
	if sv.State != ServerSuspect || sv.Silent != 9000 || !sv.Together || sv.Away != 7 || s.LastEvent() != events {
		t.Errorf("a suspect server: %+v", sv)
	}
	for _, state := range []ServerState{ServerUp, ServerDown} {
		say(SetServer{State: ServerSuspect, Silent: 2000, Together: true})
		say(SetServer{State: state, Silent: 9000, Together: true})
		if sv.State != state || sv.Silent != 0 || sv.Together {
			t.Errorf("a server that is %v: %+v", state, sv)
		}
	}
}
