package media

import (
	"strings"
	"testing"

	"dmps/transport"
	"dmps/transport/fabric"
)

func TestDialer(t *testing.T) {
	var d Dialer
	if err := d.Register(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{
		"tcp://127.0.0.1:1":        "refused",
		"udp://127.0.0.1:1":        "tcp://host:port",
		"fabric+x://127.0.0.1:1":   "none of tcp, shm, verbs, efa",
		"fabric+tcp://127.0.0.1:1": map[bool]string{true: "refused", false: "-tags fabric"}[fabric.Built],
	} {
		if _, _, err := d.Dial(t.Context(), addr, transport.Hello{}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, not %q", addr, err, want)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
