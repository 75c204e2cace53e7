package nbdtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gonbd "github.com/pojntfx/go-nbd/pkg/client"
)

// MinSize is the least size of an export that Peers can test with, in bytes.
const MinSize = 64 << 20

// Peers runs every real client against the export at uri, one subtest each.
// It overwrites the export, which must be writable, at least MinSize long and
// used by nobody else.
//
// A subtest whose program is not installed is skipped, or fails when the
// environment has DMPS_E2E=1: there, everything has to run.
func Peers(t *testing.T, uri string) {
	for _, p := range []struct {
		name string
		f    func(*testing.T, string)
	}{
		{"nbdinfo", Nbdinfo},
		{"nbdcopy", Nbdcopy},
		{"nbdsh", Nbdsh},
		{"qemu-img", QemuImg},
		{"qemu-io", QemuIO},
		{"fio", Fio},
		{"go-nbd", GoNBD},
	} {
		t.Run(p.name, func(t *testing.T) { p.f(t, uri) })
	}
}

// need skips the test without a program, or fails it when it has to run.
func need(t *testing.T, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err == nil {
		return
	}
	if os.Getenv("DMPS_E2E") == "1" {
		t.Fatalf("%s is not installed, and DMPS_E2E=1", tool)
	}
	t.Skipf("%s is not installed", tool)
}

// run runs a program, which must succeed, and returns its standard output.
func run(t *testing.T, name string, arg ...string) string {
	t.Helper()
	out, stderr, err := try(t, name, arg...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(arg, " "), err, out, stderr)
	}
	return out
}

func try(t *testing.T, name string, arg ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, arg...)
	cmd.Dir = t.TempDir() // fio and qemu leave things
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	return o.String(), e.String(), err
}

// Nbdinfo checks what the server says of itself and of the export.
func Nbdinfo(t *testing.T, uri string) {
	need(t, "nbdinfo")
	var info struct {
		Protocol   string
		Structured bool
		Exports    []struct {
			Size       int64 `json:"export-size"`
			ReadOnly   bool  `json:"is_read_only"`
			CacheOK    bool  `json:"can_cache"`
			DF         bool  `json:"can_df"`
			FastZero   bool  `json:"can_fast_zero"`
			Flush      bool  `json:"can_flush"`
			FUA        bool  `json:"can_fua"`
			MultiConn  bool  `json:"can_multi_conn"`
			Trim       bool  `json:"can_trim"`
			Zero       bool  `json:"can_zero"`
			Min        int64 `json:"block_size_minimum"`
			Preferred  int64 `json:"block_size_preferred"`
			Max        int64 `json:"block_size_maximum"`
			Contexts   []string
			Rotational bool `json:"is_rotational"`
		}
	}
	if err := json.Unmarshal([]byte(run(t, "nbdinfo", "--json", uri)), &info); err != nil {
		t.Fatal(err)
	}
	if info.Protocol != "newstyle-fixed" || !info.Structured || len(info.Exports) != 1 {
		t.Fatalf("%+v", info)
	}
	e := info.Exports[0]
	if e.Size < MinSize || e.ReadOnly || e.Rotational ||
		!e.CacheOK || !e.DF || !e.FastZero || !e.Flush || !e.FUA || !e.MultiConn || !e.Trim || !e.Zero {
		t.Errorf("%+v", e)
	}
	if e.Min != 1 || e.Preferred != 4096 || e.Max != 32<<20 {
		t.Errorf("block sizes %d, %d, %d", e.Min, e.Preferred, e.Max)
	}
	if !slices.Contains(e.Contexts, "base:allocation") {
		t.Errorf("contexts %q", e.Contexts)
	}
	if list := run(t, "nbdinfo", "--list", serverOf(t, uri)); !strings.Contains(list, "export=") {
		t.Errorf("list: %s", list)
	}
	run(t, "nbdinfo", "--map", uri)
}

// serverOf is uri without its export.
func serverOf(t *testing.T, uri string) string {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/"
	return u.String()
}

// Nbdcopy copies an image with holes in, over several connections, and out.
func Nbdcopy(t *testing.T, uri string) {
	need(t, "nbdcopy")
	image := make([]byte, MinSize)
	rnd := rand.NewChaCha8([32]byte{1})
	for _, r := range [][2]int{{0, 5 << 20}, {7<<20 + 512, 8 << 20}, {20 << 20, 20<<20 + 4096}, {60 << 20, MinSize}} {
		if _, err := rnd.Read(image[r[0]:r[1]]); err != nil {
			t.Fatal(err)
		}
	}
	in, out := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(in, image, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "nbdcopy", "--flush", "--connections=4", "--requests=64", in, uri)
	run(t, "nbdcopy", "--connections=4", uri, out)
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) < len(image) || !bytes.Equal(got[:len(image)], image) {
		t.Error("what came out is not what went in")
	}
}

// Nbdsh takes the protocol by its corners: see nbdsh.py.
func Nbdsh(t *testing.T, uri string) {
	need(t, "nbdsh")
	// The module belongs to the distribution's Python, not to any other one.
	t.Setenv("PATH", "/usr/bin:"+os.Getenv("PATH"))
	out := run(t, "nbdsh", "-n", "-c", fmt.Sprintf("uri = %q\n%s", uri, corners))
	if !strings.Contains(out, "corners: all good") {
		t.Errorf("nbdsh: %s", out)
	}
}

// QemuImg converts an image in, compares it, and maps it.
func QemuImg(t *testing.T, uri string) {
	need(t, "qemu-img")
	need(t, "nbdinfo")
	image := make([]byte, MinSize)
	if _, err := rand.NewChaCha8([32]byte{2}).Read(image[9<<20 : 21<<20]); err != nil {
		t.Fatal(err)
	}
	in := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(in, image, 0o600); err != nil {
		t.Fatal(err)
	}
	// As long as the export: what other tests left behind the image must not
	// count as a difference.
	size, err := strconv.ParseInt(strings.TrimSpace(run(t, "nbdinfo", "--size", uri)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(in, size); err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-img", "info", uri)
	run(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", in, uri)
	out := run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", in, uri)
	if !strings.Contains(out, "identical") {
		t.Errorf("compare: %s", out)
	}
	run(t, "qemu-img", "map", "--output=json", "-f", "raw", uri)
}

// QemuIO writes and verifies patterns, zeroes and discards.
func QemuIO(t *testing.T, uri string) {
	need(t, "qemu-io")
	out := run(t, "qemu-io", "-f", "raw",
		"-c", "write -P 0xa5 0 1M", "-c", "write -P 0x5a 513 4097", "-c", "read -P 0xa5 0 513", "-c", "read -P 0x5a 513 4097",
		"-c", "read -P 0xa5 4610 100", "-c", "write -z 8k 12k", "-c", "read -P 0 8k 12k", "-c", "write -z -u 32k 64k", "-c", "read -P 0 32k 64k",
		"-c", "write -f -P 0x11 1M 128k", "-c", "discard 1M 64k", "-c", "flush", "-c", "read -P 0x11 1088k 64k",
		"-c", "aio_write -P 0x77 2M 1M", "-c", "aio_write -P 0x78 3M 1M", "-c", "aio_flush", "-c", "read -P 0x77 2M 1M", "-c", "read -P 0x78 3M 1M",
		uri)
	if strings.Contains(out, "failed") || strings.Contains(out, "rror") {
		t.Error(out)
	}
}

// Fio writes and verifies with checksums, at random and many at once, over
// several connections.
func Fio(t *testing.T, uri string) {
	need(t, "fio")
	for _, bs := range [][]string{{"--bs=4k"}, {"--bs=128k"}, {"--bsrange=512-64k", "--bs_unaligned"}} {
		run(t, "fio", append(bs, "--name=verify", "--ioengine=nbd", "--uri="+uri, "--rw=randwrite", "--iodepth=32", "--size=16m",
			"--numjobs=2", "--offset_increment=16m", "--verify=crc32c", "--verify_fatal=1", "--randseed=7")...)
	}
}

// GoNBD lists the exports with go-nbd's client. Its Connect needs a kernel
// device before it says a word; what it would say is in the server's tests.
func GoNBD(t *testing.T, uri string) {
	nc, err := DialURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	names, err := gonbd.List(nc)
	if cerr := nc.Close(); err != nil || cerr != nil {
		t.Fatalf("list: %v, close: %v", err, cerr)
	}
	if len(names) == 0 {
		t.Error("no exports")
	}
}
