package peers

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// testdata/fio-randread.json is what fio 3.33 printed, but for job options.
func TestParseFio(t *testing.T) {
	out, err := os.ReadFile("testdata/fio-randread.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseFio(out)
	if err != nil {
		t.Fatal(err)
	}
	want := FioResult{Ops: 2048, IOPS: 48761.904762, Bytes: 199728761, Latency: Latency{
		P50: 284672, P99: 3358720, P999: 3981312, Max: 3994785,
	}}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	// Warnings come before the JSON.
	if got, err = ParseFio(append([]byte("fio: this is not so good\n"), out...)); err != nil || got != want {
		t.Errorf("with a warning: %+v, %v", got, err)
	}
}

func TestParseFioRefuses(t *testing.T) {
	const percentiles = `"clat_ns":{"max":3,"percentile":{"50.000000":1,"99.000000":2,"99.900000":3}}`
	for _, c := range []struct{ name, out, want string }{
		{"nothing", "", "no JSON"},
		{"text", "fio: nbd_connect_uri: connect: Connection refused\n", "no JSON"},
		{"cut off", `{"jobs":[{"error":0,`, "fio's JSON"},
		{"no job", `{"jobs":[]}`, "0 jobs"},
		{"an error", `{"jobs":[{"error":5,"read":{"total_ios":3,` + percentiles + `}}]}`, "errno 5"},
		{"no request", `{"jobs":[{"error":0,"read":{"total_ios":0},"write":{"total_ios":0}}]}`, "no request"},
		{"both directions", `{"jobs":[{"error":0,"read":{"total_ios":1},"write":{"total_ios":1}}]}`, "both"},
		{"no percentiles", `{"jobs":[{"error":0,"write":{"total_ios":1}}]}`, "no percentile 50"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := ParseFio([]byte(c.out)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func FuzzParseFio(f *testing.F) {
	out, err := os.ReadFile("testdata/fio-randread.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(out)
	f.Add([]byte(`{"jobs":[{"error":0,"read":{"total_ios":-1}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if res, err := ParseFio(b); err == nil && res.Ops == 0 {
			t.Errorf("accepted a run without requests: %q", b)
		}
	})
}

func TestFioArgs(t *testing.T) {
	args := fioArgs("nbd://h:1", Cell{Block: Small, Random: true, Write: true, Depth: 32}, 1<<20, 1500*time.Millisecond, 7)
	for _, want := range []string{"--rw=randwrite", "--bs=4096", "--iodepth=32", "--runtime=1500ms", "--size=1048576", "--uri=nbd://h:1", "--randseed=7", "--time_based"} {
		if !slices.Contains(args, want) {
			t.Errorf("no %s in %q", want, args)
		}
	}
	if slices.Contains(args, "--zero_buffers") || !slices.Contains(fillArgs("u", 1<<20, 1), "--refill_buffers") {
		t.Error("pages must be random: a page of zeros never crosses dmps' network")
	}
	if slices.Contains(fillArgs("u", 1<<20, 1), "--time_based") {
		t.Error("a fill ends at the end of the device, not of a time")
	}
}
