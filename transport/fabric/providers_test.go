//go:build fabric && cgo

package fabric_test

import (
	"errors"
	"strings"
	"testing"

	"dmps/server"
	"dmps/transport"
	"dmps/transport/fabric"
)

// A session is by the first of the address's providers that both sides have.
func TestFirstProviderOfBoth(t *testing.T) {
	r := start(t, "tcp", server.Config{Window: 16}, 0)
	hostPort := strings.TrimPrefix(r.addr, "fabric+tcp://")
	u := newUser(t)
	c := u.dial("fabric+verbs+shm+tcp://"+hostPort, 1) // it is Strict
	if got := c.(transport.Carrier).Carrier(); got != "fabric+tcp" {
		t.Errorf("carried by %s", got)
	}
	u.writeAndRead(c)
	if n := u.d.Counts(); n.OneSided == 0 {
		t.Errorf("%+v", n)
	}

	strict := &fabric.Dialer{Strict: true}
	defer strict.Close()
	_, _, err := strict.Dial(t.Context(), "fabric+verbs+shm://"+hostPort, transport.Hello{Cluster: "c", Volume: 9, Epoch: 1}, nil)
	if err == nil || !strings.Contains(err.Error(), "by verbs: ") || !strings.Contains(err.Error(), "by shm: ") {
		t.Errorf("by providers that the server does not have: %v", err)
	}
}

// A session may attach again while it has no keys, whatever becomes of its first
// endpoint, and not later: its transfers would have two ends.
func TestAttachAgain(t *testing.T) { eachHere(t, attachAgain) }

func attachAgain(t *testing.T, provider string) {
	r := start(t, provider, server.Config{Window: 16}, 0)
	for epoch := range uint64(5) {
		third, err := fabric.Reattach(t.Context(), r.addr, transport.Hello{Cluster: "c", Volume: 7, Epoch: 1 + epoch}, 70, transport.ChunkSpec{Slots: 8, HeaderBytes: 88})
		if err != nil {
			t.Fatal(err)
		}
		if !errors.Is(third, transport.ErrRefused) {
			t.Errorf("attached a third time: %v", third)
		}
	}
}
