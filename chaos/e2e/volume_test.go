package e2e

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
)

// randomPage gives a page that is not compressible to one byte.
func randomPage(seed byte) []byte {
	p := make([]byte, 4096)
	rng := rand.NewChaCha8([32]byte{seed})
	for i := range p {
		p[i] = byte(rng.Uint64())
	}
	return p
}

// refused demands that a command fails with an error that names what is wrong.
func refused(t *testing.T, r result, words ...string) {
	t.Helper()
	if r.code == 0 {
		t.Errorf("not refused: %v", r)
	}
	for _, w := range words {
		if !strings.Contains(strings.ToLower(r.stderr), w) {
			t.Errorf("the error does not mention %q: %v", w, r)
		}
	}
	if n := strings.Count(r.stderr, "\n"); n > 5 {
		t.Errorf("%d lines of error: %v", n, r)
	}
}

// Somebody attaches a volume that is in use: an error to him, and nobody
// else notices.
func TestSecondAttach(t *testing.T) {
	c := start(t, small)
	ld := c.startLoad()
	for range 2 {
		r := c.dmps("attach", "swap0", "--allow-swappable", "--nbd", "unix:"+filepath.Join(t.TempDir(), "s"))
		refused(t, r, "swap0", "attached")
		ld.more(1000)
	}
	ld.flawless()
	if _, code := c.status(); code != healthy {
		t.Errorf("status exits with %d", code)
	}
}

func TestVolumesThatCannotBe(t *testing.T) {
	c := start(t, small)
	ld := c.startLoad()
	for _, args := range [][]string{
		{"does not fit", "volume", "create", "big", "--size", "100GiB", "--redundancy", "rs:4+2", "--failure-domain", "server"},
		{"too few domains", "volume", "create", "wide", "--size", "64MiB", "--redundancy", "rs:8+2", "--failure-domain", "server"},
		{"one host only", "volume", "create", "hosts", "--size", "64MiB", "--redundancy", "mirror:2", "--failure-domain", "host"},
		{"name is taken", "volume", "create", "swap0", "--size", "64MiB", "--redundancy", "none"},
		{"no size", "volume", "create", "nosize", "--size", "0", "--redundancy", "none"},
		{"no such scheme", "volume", "create", "scheme", "--size", "64MiB", "--redundancy", "raid5"},
		{"in use", "volume", "delete", "swap0"},
		{"unknown", "volume", "show", "nosuch"},
	} {
		t.Run(args[0], func(t *testing.T) {
			refused(t, c.dmps(args[1:]...))
			ld.more(100)
		})
	}
	if r := c.dmps("volume", "list"); strings.Contains(r.stdout, "big") || strings.Contains(r.stdout, "wide") || !strings.Contains(r.stdout, "swap0") {
		t.Errorf("volume list: %v", r)
	}
	ld.flawless()
	if _, code := c.status(); code != healthy {
		t.Errorf("status exits with %d", code)
	}
}

// Foreign addresses need a flag as long as nobody is authenticated.
func TestInsecureNetworkIsRefused(t *testing.T) {
	c := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	for _, args := range [][]string{
		{"attach", "swap0", "--nbd", "0.0.0.0:0"},
		{"server", "--listen", "0.0.0.0:0", "--memory", "64MiB"},
	} {
		refused(t, command(t, c.Command(ctx, args...)), "insecure-network")
	}
}
