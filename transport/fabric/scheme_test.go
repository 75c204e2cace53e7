package fabric

import (
	"strings"
	"testing"

	"dmps/transport"
)

func TestParseAddress(t *testing.T) {
	for addr, want := range map[string]string{
		"fabric+tcp://127.0.0.1:7": "tcp 127.0.0.1:7",
		"fabric+shm://[::1]:7":     "shm [::1]:7",
		"fabric+verbs://h:7":       "verbs h:7",
		"fabric+efa://h:7":         "efa h:7",
		"fabric+verbs+tcp://h:7":   "verbs+tcp h:7",
		"fabric+tcp+tcp://h:7":     "",
		"fabric+tcp+://h:7":        "",
		"fabric+://h:7":            "",
		"fabric+psm://h:7":         "",
		"fabric+tcp://h":           "",
		"fabric+tcp:h:7":           "",
		"tcp://h:7":                "",
		"":                         "",
	} {
		p, h, err := ParseAddress(addr)
		if (err == nil) != (want != "") || err == nil && strings.Join(p, "+")+" "+h != want {
			t.Errorf("%q: %q %s, %v", addr, p, h, err)
		}
		if IsAddress(addr) != strings.HasPrefix(addr, "fabric+") {
			t.Errorf("%q: IsAddress is wrong", addr)
		}
	}
}

// Without libfabric, and with it where nothing listens, a dial fails and says
// why.
func TestDialFails(t *testing.T) {
	d := Dialer{Strict: true}
	for _, addr := range []string{"", "nowhere", "tcp://127.0.0.1:1", "fabric+tcp://127.0.0.1:1"} {
		_, _, err := d.Dial(t.Context(), addr, transport.Hello{}, nil)
		if err == nil {
			t.Errorf("dialled %q", addr)
		} else if !Built && IsAddress(addr) && !strings.Contains(err.Error(), "-tags fabric") {
			t.Errorf("%q: %v", addr, err)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
