package nbdclient

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestURI(t *testing.T) {
	for _, c := range []struct {
		addr Addr
		uri  string
	}{
		{Addr{"tcp", "127.0.0.1:10809", ""}, "nbd://127.0.0.1:10809"},
		{Addr{"tcp", "127.0.0.1:10809", "swap0"}, "nbd://127.0.0.1:10809/swap0"},
		{Addr{"tcp", "[::1]:1", "a b"}, "nbd://[::1]:1/a%20b"},
		{Addr{"unix", "/run/x.sock", ""}, "nbd+unix:///?socket=/run/x.sock"},
		{Addr{"unix", "/tmp/a b&c/x.sock", "swap0"}, "nbd+unix:///swap0?socket=/tmp/a%20b%26c/x.sock"},
	} {
		if got := c.addr.String(); got != c.uri {
			t.Errorf("%v prints as %s, want %s", c.addr, got, c.uri)
		}
		got, err := ParseURI(c.uri)
		if err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(c.addr, got); d != "" {
			t.Errorf("%s: %s", c.uri, d)
		}
	}
	if a, err := ParseURI("nbd://localhost"); err != nil || a.Address != "localhost:10809" {
		t.Errorf("default port: %v, %v", a, err)
	}
	for _, bad := range []string{"http://x", "nbd://", "nbd+unix:///x", "127.0.0.1:10809", "nbd://[::1"} {
		if a, err := ParseURI(bad); err == nil {
			t.Errorf("%q parsed as %v", bad, a)
		}
	}
}

func TestListen(t *testing.T) {
	for _, s := range []string{"127.0.0.1:10809", "[::1]:0", "unix:/run/dmps.sock"} {
		a, err := ParseListen(s)
		if err != nil || a.Listen() != s {
			t.Errorf("%q: %v, %v", s, a, err)
		}
	}
	for _, bad := range []string{"", "unix:", "127.0.0.1", "/run/dmps.sock"} {
		if a, err := ParseListen(bad); err == nil {
			t.Errorf("%q parsed as %v", bad, a)
		}
	}
}
