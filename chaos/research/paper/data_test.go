package paper

import (
	"dmps/chaos/figures"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDataSaveLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := figures.Load[FillRow](dir, FigureFill); !errors.Is(err, figures.ErrNotMeasured) {
		t.Errorf("loading nothing: %v", err)
	}
	want := figures.Data[FillRow]{
		Figure: FigureFill, Started: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Took: 1.5, Machine: figures.ThisMachine(), Notes: []string{"a note"},
		Rows: []FillRow{{Device: PlainNBD, Pass: PassRead, Array: 64 << 20, Limit: 32 << 20, Moved: figures.Moved{Bytes: 1, Seconds: 2}, VM: VM{SwapIn: 3}, Swap: Disk{Reads: 4}}},
	}
	if err := want.Save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := figures.Load[FillRow](dir, FigureFill)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if err := (figures.Data[FillRow]{Figure: FigureFill}).Save(dir); err == nil {
		t.Error("a figure without rows was saved")
	}
	if err := os.Rename(filepath.Join(dir, "fill.json"), filepath.Join(dir, "apps.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := figures.Load[AppRow](dir, FigureApps); err == nil {
		t.Error("a file of another figure was loaded")
	}
}

func TestCounters(t *testing.T) {
	const vmstat = "nr_free_pages 5\npswpin 10\npswpout 20\nswap_ra 7\nswap_ra_hit 6\npgmajfault 4\nworkingset_refault_anon 2\nallocstall_dma 1\nallocstall_normal 2\n"
	v, err := parseVM(strings.NewReader(vmstat))
	if err != nil {
		t.Fatal(err)
	}
	if want := (VM{SwapIn: 10, SwapOut: 20, Ahead: 7, AheadHit: 6, MajorFaults: 4, Refaults: 2, DirectReclaim: 3}); v != want {
		t.Errorf("got %+v, want %+v", v, want)
	}
	if d := v.Sub(v); d != (VM{}) {
		t.Errorf("difference to itself: %+v", d)
	}
	if _, err := parseVM(strings.NewReader("pswpin 10\n")); err == nil {
		t.Error("a kernel without the counters was not noticed")
	}
	d, err := parseDisk("  10 1 80 1500 20 2 160 2500 0 0 0")
	if err != nil {
		t.Fatal(err)
	}
	if want := (Disk{Reads: 10, ReadBytes: 40960, ReadWait: 1.5, Writes: 20, WriteBytes: 81920, WriteWait: 2.5}); d != want {
		t.Errorf("got %+v, want %+v", d, want)
	}
	if _, err := parseDisk("1 2 3"); err == nil {
		t.Error("a short line was accepted")
	}
}

// TestWorker runs the test program itself as a worker.
func TestWorker(t *testing.T) {
	if os.Getenv("PAPER_TEST_WORKER") != "" {
		if err := Work(1<<20, os.Stdin, os.Stdout); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	t.Setenv("PAPER_TEST_WORKER", "1")
	w, err := StartWorker(nil, os.Args[0], "-test.run=^TestWorker$")
	if err != nil {
		t.Fatal(err)
	}
	for _, pass := range [][]any{{PassFill}, {PassRead}, {PassRandom, 50, 1}} {
		if m, err := w.Do(pass...); err != nil || m.Bytes == 0 {
			t.Errorf("%v: %+v, %v", pass, m, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}

	// Reading what nobody has filled ends the worker with an error.
	if w, err = StartWorker(nil, os.Args[0], "-test.run=^TestWorker$"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Do(PassRead); err == nil {
		t.Error("reading before filling was fine")
	}
	if err := w.Close(); err == nil {
		t.Error("a worker that failed ended well")
	}
}
