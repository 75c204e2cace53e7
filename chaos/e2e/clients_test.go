package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dmps/chaos/e2e/rig"
)

// randomFile writes n random bytes.
func randomFile(t *testing.T, path string, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(n)})
	if _, err := rng.Read(p); err != nil {
		t.Fatal(err)
	}
	must(t, os.WriteFile(path, p, 0o644))
	return p
}

func TestNbdinfo(t *testing.T) {
	needTool(t, "nbdinfo")
	c := start(t)
	var info struct {
		Protocol   string
		Structured bool
		Exports    []struct {
			Name     string   `json:"export-name"`
			Size     int64    `json:"export-size"`
			Contexts []string `json:"contexts"`
			ReadOnly bool     `json:"is_read_only"`
			Flush    bool     `json:"can_flush"`
			FUA      bool     `json:"can_fua"`
			Trim     bool     `json:"can_trim"`
			Zero     bool     `json:"can_zero"`
			Cache    bool     `json:"can_cache"`
			Multi    bool     `json:"can_multi_conn"`
			Min      int64    `json:"block_size_minimum"`
			Pref     int64    `json:"block_size_preferred"`
			Max      int64    `json:"block_size_maximum"`
		}
	}
	out := run(t, "nbdinfo", "--json", c.NBD)
	if err := json.Unmarshal([]byte(out), &info); err != nil || len(info.Exports) != 1 {
		t.Fatalf("%v\n%s", err, out)
	}
	e := info.Exports[0]
	if e.Size != 256*mib {
		t.Errorf("size %d", e.Size)
	}
	if info.Protocol != "newstyle-fixed" || !info.Structured {
		t.Errorf("protocol %s, structured replies %v", info.Protocol, info.Structured)
	}
	if e.ReadOnly || !e.Flush || !e.FUA || !e.Trim || !e.Zero || !e.Cache || !e.Multi {
		t.Errorf("flags: %+v", e)
	}
	if e.Min != 1 || e.Pref != 4096 || e.Max != 32*mib {
		t.Errorf("block sizes %d, %d, %d", e.Min, e.Pref, e.Max)
	}
	if !strings.Contains(strings.Join(e.Contexts, " "), "base:allocation") {
		t.Errorf("contexts %q", e.Contexts)
	}
	if list := run(t, "nbdinfo", "--list", "--json", c.NBD); !strings.Contains(list, "swap0") {
		t.Errorf("the volume is not listed: %s", list)
	}
	if size := strings.TrimSpace(run(t, "nbdinfo", "--size", c.NBD)); size != fmt.Sprint(256*mib) {
		t.Errorf("--size: %s", size)
	}
}

// What is written shows as allocated, what is trimmed as a hole again.
func TestNbdinfoMap(t *testing.T) {
	needTool(t, "nbdinfo")
	c := start(t)
	conn := c.dial()
	data := randomFile(t, filepath.Join(t.TempDir(), "data"), mib)
	if _, err := conn.WriteAt(data, mib); err != nil {
		t.Fatal(err)
	}
	extents := func() map[int64]int { // type of the extent by offset: 0 data, 3 hole of zeros
		var list []struct {
			Offset int64
			Type   int
		}
		if err := json.Unmarshal([]byte(run(t, "nbdinfo", "--map", "--json", c.NBD)), &list); err != nil {
			t.Fatal(err)
		}
		m := map[int64]int{}
		for _, e := range list {
			m[e.Offset] = e.Type
		}
		return m
	}
	if m := extents(); len(m) != 3 || m[0] != 3 || m[mib] != 0 || m[2*mib] != 3 {
		t.Errorf("after a write: %v", m)
	}
	must(t, conn.Trim(mib, mib))
	if m := extents(); len(m) != 1 || m[0] != 3 {
		t.Errorf("after a trim: %v", m)
	}
}

func TestNbdcopyInAndOut(t *testing.T) {
	needTool(t, "nbdcopy")
	for name, change := range map[string]func(c *rig.DevConfig){
		"rs":      func(c *rig.DevConfig) {},
		"mirror":  mirror3,
		"none":    func(c *rig.DevConfig) { c.Redundancy, c.Servers, c.ServerMemory = "none", 1, "640MiB" },
		"linear":  func(c *rig.DevConfig) { c.Redundancy, c.Layout = "none", "linear" },
		"striped": func(c *rig.DevConfig) { c.Redundancy, c.Layout = "none", "striped" },
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, change, small)
			dir := t.TempDir()
			in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
			data := randomFile(t, in, 40*mib+12345)
			run(t, "nbdcopy", in, c.NBD)
			run(t, "nbdcopy", c.NBD, out)
			got, err := os.ReadFile(out)
			must(t, err)
			if len(got) != 64*mib {
				t.Fatalf("%d bytes came back", len(got))
			}
			if !bytes.Equal(got[:len(data)], data) {
				t.Error("other bytes came back")
			}
			if len(bytes.TrimLeft(got[len(data):], "\x00")) != 0 {
				t.Error("behind what was written there is something else than zeros")
			}
		})
	}
}

func TestQemuImg(t *testing.T) {
	needTool(t, "qemu-img")
	c := start(t)
	in := filepath.Join(t.TempDir(), "in.raw")
	randomFile(t, in, 50*mib)
	must(t, os.Truncate(in, 256*mib)) // the rest is a hole
	for _, threads := range []string{"1", "16"} {
		run(t, "qemu-img", "convert", "-n", "-W", "-m", threads, "-f", "raw", "-O", "raw", in, c.NBD)
		if out := run(t, "qemu-img", "compare", "-s", "-f", "raw", "-F", "raw", in, c.NBD); !strings.Contains(out, "identical") {
			t.Errorf("compare says: %s", out)
		}
	}
	out := filepath.Join(t.TempDir(), "out.raw")
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", c.NBD, out)
	run(t, "qemu-img", "compare", "-s", "-f", "raw", "-F", "raw", in, out)
}

// qemu-io fails the command, and so the run, when a pattern is not found.
func TestQemuIOPatterns(t *testing.T) {
	needTool(t, "qemu-io")
	c := start(t)
	args := []string{"-f", "raw", "-t", "writeback"}
	for _, cmd := range []string{
		"write -P 0x5a 0 64k", "read -P 0x5a 0 64k",
		// Not aligned to pages, at neither end, within one and across several.
		"write -P 0xa5 513 3000", "read -P 0x5a 0 513", "read -P 0xa5 513 3000", "read -P 0x5a 3513 62023",
		"write -P 0x11 65000 10000", "read -P 0x11 65000 10000", "read -P 0x5a 60000 5000", "read -P 0 75000 1000",
		"write -f -P 0x22 1M 2M", "read -P 0x22 1M 2M", // FUA, more than one transfer
		"write -z 1536k 100k", "read -P 0 1536k 100k", "read -P 0x22 1M 512k", "read -P 0x22 1636k 1M",
		"write -z -u 1700k 8k", "read -P 0 1700k 8k",
		"discard 2M 512k", "read -P 0 2M 512k", "read -P 0x22 2560k 512k",
		"aio_write -P 0x33 8M 1M", "aio_write -P 0x44 9M 1M", "aio_flush", "read -P 0x33 8M 1M", "read -P 0x44 9M 1M",
		"writev -P 0x55 16M 4k 512 128k 1000", "read -P 0x55 16M 136680",
		"write -P 0x66 255M 1M", "read -P 0x66 255M 1M", // up to the end
		"flush", "read -P 0xa5 513 3000",
	} {
		args = append(args, "-c", cmd)
	}
	out := run(t, "qemu-io", append(args, c.NBD)...)
	if strings.Contains(out, "failed") || strings.Contains(out, "error") {
		t.Errorf("qemu-io says:\n%s", out)
	}
}
