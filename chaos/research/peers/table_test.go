package peers

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "rewrite testdata/report.md")

// The whole report is compared to a file that people have looked at.
func TestWriteMarkdown(t *testing.T) {
	small, large := Cell{Block: Small, Random: true, Depth: 1}, Cell{Block: Large, Write: true, Depth: 32}
	r := twoRounds(small, large)
	r.RuntimeMS, r.Size, r.Front = 2000, 512<<20, "unix"
	r.Contenders = []Entry{{NameNbdkit, "the | peer"}, {NameNone, "ours"}}
	r.Environment = Environment{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), CPU: "a CPU", Cores: 2, MemoryMiB: 1024, Kernel: "6.1", Virtual: "virtual machine",
		Go: "go1.26", Commit: "abc+changes", Tools: map[string]string{"fio": "fio-3.33", "nbdkit": "1.32", "nbd-server": "absent", "qemu-nbd": "7.2"},
		LoadStart: "0.10 0.20 0.30", LoadEnd: "1.10 0.20 0.30",
	}
	for i := range r.Samples {
		s := &r.Samples[i]
		s.Bytes = s.IOPS * float64(s.Cell.Block)
		s.CPU = map[string]float64{"front": 12.34, fioRole: 5}
		s.Foreign = 0.25
		s.Latency.P99, s.Latency.Max = 3*s.Latency.P50, time.Second
	}
	r.Samples[5].Settled = false
	r.Samples[7].Err = "fio's job ended\nwith errno 5"
	r.Memory = []Memory{{Contender: NameNone, Role: RoleServers, Processes: 1, Peak: 101 << 20, Limit: 100 << 20}}
	r.Bars = r.judge([]Bar{
		{Name: "reads", Contender: NameNone, Against: NameNbdkit, Want: 0.5, Cells: func(c Cell) bool { return !c.Write }},
		{Name: "writes", Contender: NameNone, Against: NameNbdkit, Want: 0.5, Cells: func(c Cell) bool { return c.Write }},
		{Name: "all", Contender: NameRS, Against: NameQuorum, Want: 2, Cells: func(c Cell) bool { return true }},
	})

	var got strings.Builder
	if err := r.WriteMarkdown(&got); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/report.md"
	if *rewrite {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the report differs from %s; look at it, then run with -rewrite:\n%s", golden, got.String())
	}
}

func TestTableKeepsItsShape(t *testing.T) {
	var b strings.Builder
	table(&b, []string{"a", "b"}, [][]string{{"x|y", "two\nlines"}})
	for line := range strings.Lines(strings.TrimSpace(b.String())) {
		if strings.Count(line, "|") != 3 {
			t.Errorf("%q has another number of columns", line)
		}
	}
}
