package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"dmps/chaos/e2e/rig"
	"dmps/internal/nbdclient"
)

// scrubbed is what `dmps scrub --output json` promises at least.
type scrubbed struct {
	Running       bool
	SlotsVerified uint64 `json:"slots_verified"`
	SlotsSkipped  uint64 `json:"slots_skipped"`
	BadSlots      uint64 `json:"bad_slots"`
	Repaired      uint64
	Unrepairable  uint64
	Servers       []struct {
		Server string
		Bad    uint64
	}
}

func (c *cluster) scrub(volume string, args ...string) (scrubbed, int) {
	c.t.Helper()
	r := c.dmps(append([]string{"scrub", volume, "--output", "json", "--rate", "0"}, args...)...)
	var s scrubbed
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
		c.t.Fatalf("%v: %v", err, r)
	}
	return s, r.code
}

// flipBits changes a byte in n pages that a server lends, chosen of those that
// match, and skips the test where that is not allowed.
func (c *cluster) flipBits(s rig.Role, n int, rnd *rand.Rand, match func([]byte) bool) {
	c.t.Helper()
	at, err := rig.FindPages(s.PID, 32*mib, match)
	if errors.Is(err, os.ErrPermission) {
		c.t.Skipf("the memory of another process cannot be changed here: %v", err)
	}
	must(c.t, err)
	if len(at) < n {
		c.t.Fatalf("%d pages that match in the memory of %s, want %d", len(at), s.ID, n)
	}
	rnd.Shuffle(len(at), func(i, j int) { at[i], at[j] = at[j], at[i] })
	for _, a := range at[:n] {
		must(c.t, rig.FlipByte(s.PID, a+uint64(rnd.IntN(4096))))
	}
}

// content is random pages; the first bytes of each are found again in servers'
// memory.
func content(rnd *rand.Rand, size int) (all []byte, known func([]byte) bool) {
	all = make([]byte, size)
	for i := range all {
		all[i] = byte(rnd.Uint32())
	}
	heads := map[string]bool{}
	for i := 0; i < size; i += 4096 {
		heads[string(all[i:i+16])] = true
	}
	return all, func(p []byte) bool { return heads[string(p[:16])] }
}

// noise matches pages of random bytes: parity of random data too, but not headers.
func noise(p []byte) bool { return bytes.Count(p, []byte{0}) < 64 }

func writeAll(t *testing.T, conn *nbdclient.Conn, b []byte) {
	t.Helper()
	for off := 0; off < len(b); off += mib {
		if _, err := conn.WriteAt(b[off:off+mib], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
}

func readAll(t *testing.T, conn *nbdclient.Conn, want []byte) {
	t.Helper()
	got := make([]byte, mib)
	for off := 0; off < len(want); off += mib {
		if _, err := conn.ReadAt(got, int64(off)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want[off:off+mib]) {
			t.Fatalf("the content differs in the MiB at %d", off)
		}
	}
}

// TestScrub changes bytes in the memory of running servers, of data and of
// parity: `dmps scrub` finds and repairs every one, a second one finds nothing,
// and all data is right. The same for a volume that nobody has attached.
func TestScrub(t *testing.T) {
	for name, scheme := range schemes {
		t.Run(name, func(t *testing.T) {
			c := start(t, scheme, func(d *rig.DevConfig) { d.Size, d.ServerMemory = "32MiB", "128MiB" })
			seed := rand.Uint64()
			t.Logf("seed %#x", seed)
			rnd := rand.New(rand.NewPCG(seed, 1))
			conn := c.dial()
			data, known := content(rnd, 24*mib)
			writeAll(t, conn, data)
			if s, code := c.scrub("swap0"); code != 0 || s.BadSlots != 0 || s.SlotsSkipped != 0 || s.SlotsVerified < uint64(len(data))/4096 {
				t.Fatalf("nothing is wrong yet: exit code %d, %+v", code, s)
			}
			// Up to M = 2 members of any row.
			c.flipBits(c.Servers[0], 7, rnd, known)
			c.flipBits(c.Servers[1], 6, rnd, noise)
			s, code := c.scrub("swap0", "--watch")
			if code != degraded || s.BadSlots != 13 || s.Repaired != 13 || s.Unrepairable != 0 || s.SlotsSkipped != 0 {
				t.Errorf("13 bytes were changed: exit code %d, %+v", code, s)
			}
			for _, sv := range s.Servers {
				want := map[string]uint64{c.Servers[0].ID: 7, c.Servers[1].ID: 6}[sv.Server]
				if sv.Bad != want {
					t.Errorf("%d bytes were changed at %s, %d found", want, sv.Server, sv.Bad)
				}
			}
			if s, code := c.scrub("swap0"); code != 0 || s.BadSlots != 0 {
				t.Errorf("a second time: exit code %d, %+v", code, s)
			}
			readAll(t, conn, data)
			if r := c.dmps("status"); r.code != healthy || !strings.Contains(r.stdout, "last scrub") {
				t.Errorf("%v", r)
			}
			if r := c.dmps("scrub", "swap0", "--stop"); r.code != 0 || !strings.Contains(r.stdout, "no scrub of swap0 runs") {
				t.Errorf("%v", r)
			}
			c.scrubDetached(rnd)
			c.allAlive()
		})
	}
}

// scrubDetached scrubs a volume that was attached once and is not any more.
func (c *cluster) scrubDetached(rnd *rand.Rand) {
	t := c.t
	t.Helper()
	if r := c.dmps("volume", "create", "idle", "--size", "8MiB", "--redundancy", c.Config.Redundancy, "--failure-domain", "server"); r.code != 0 {
		t.Fatal(r)
	}
	sock := filepath.Join(c.Config.Dir, "idle.sock")
	p, err := rig.Start(rig.Spec{
		Name: "attach idle", Argv: []string{dmpsBin, "attach", "idle", "--nbd", "unix:" + sock, "--allow-swappable", "--meta", c.MetaURLs()},
		Log: filepath.Join(c.Config.Dir, "idle.out"),
	})
	must(t, err)
	defer func() { must(t, p.Stop()) }()
	addr, err := nbdclient.ParseURI("nbd+unix:///idle?socket=" + sock)
	must(t, err)
	var conn *nbdclient.Conn
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	must(t, p.WaitFor(ctx, func() (err error) {
		conn, err = nbdclient.Dial(ctx, addr)
		return err
	}))
	data, known := content(rnd, 4*mib)
	writeAll(t, conn, data)
	must(t, conn.Close())
	must(t, syscall.Kill(p.PID(), syscall.SIGTERM))
	<-p.Done()

	c.flipBits(c.Servers[2], 3, rnd, known)
	if s, code := c.scrub("idle"); code != degraded || s.BadSlots != 3 || s.Repaired != 3 || s.SlotsSkipped != 0 {
		t.Errorf("3 bytes of a detached volume were changed: exit code %d, %+v", code, s)
	}
	if s, code := c.scrub("idle"); code != 0 || s.BadSlots != 0 {
		t.Errorf("a second time: exit code %d, %+v", code, s)
	}
	r := c.dmps("volume", "show", "idle", "--output", "json")
	if r.code != 0 || !strings.Contains(r.stdout, `"last_scrub"`) || strings.Contains(r.stdout, `"lease"`) {
		t.Errorf("after a scrub: %v", r)
	}
}
