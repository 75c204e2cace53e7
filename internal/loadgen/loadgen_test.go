package loadgen

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHistogramAgainstSorting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		durations := rapid.SliceOfN(rapid.Int64Range(0, int64(time.Hour)), 1, 300).Draw(t, "durations")
		var a, b Histogram
		for i, d := range durations {
			h := &a
			if i%2 == 1 {
				h = &b
			}
			h.Add(time.Duration(d))
		}
		a.Merge(&b)
		slices.Sort(durations)
		if int(a.Count()) != len(durations) || int64(a.Max()) != durations[len(durations)-1] {
			t.Fatalf("count %d, max %v", a.Count(), a.Max())
		}
		for _, q := range []float64{0, 0.5, 0.9, 0.99, 1} {
			rank := max(0, int(q*float64(len(durations))+0.999999)-1)
			exact := durations[rank]
			got := int64(a.Quantile(q))
			if got < exact || float64(got) > float64(exact)*1.0626+1 {
				t.Fatalf("quantile %v: got %d, exact %d", q, got, exact)
			}
		}
	})
}

func TestHistogramEmpty(t *testing.T) {
	var h Histogram
	if h.Quantile(0.5) != 0 || h.Mean() != 0 || h.Max() != 0 {
		t.Fatal("an empty histogram knows durations")
	}
}

func TestBuckets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Uint64Range(0, 1<<63-1).Draw(t, "v")
		i := bucketOf(v)
		if v > upperOf(i) || i > 0 && v <= upperOf(i-1) {
			t.Fatalf("%d is in bucket %d, which ends at %d", v, i, upperOf(i))
		}
	})
}

func TestDataIsDistinct(t *testing.T) {
	d := Data{Seed: 7}
	pages := map[string]bool{}
	p, scratch := make([]byte, PageSize), make([]byte, PageSize)
	for page := range uint64(8) {
		for gen := range uint32(3) {
			d.Fill(p, page, gen)
			if pages[string(p)] {
				t.Fatalf("page %d generation %d is not new", page, gen)
			}
			pages[string(p)] = true
			if n := d.Wrong(p, page, gen, scratch); n != 0 {
				t.Fatalf("%d wrong bytes in a right page", n)
			}
			p[17] ^= 1
			if n := d.Wrong(p, page, gen, scratch); n != 1 {
				t.Fatalf("%d wrong bytes, not 1", n)
			}
			if n := d.Wrong(p, page+1, gen, scratch); n < PageSize/2 {
				t.Fatalf("another page has only %d wrong bytes", n)
			}
		}
	}
}

// slowDevice takes a fixed time for each request and remembers where it was.
type slowDevice struct {
	each time.Duration
	fail error

	mu   sync.Mutex
	at   []int64
	seen [][]byte // first page of every write
}

func (d *slowDevice) do(off int64) error {
	time.Sleep(d.each)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = append(d.at, off)
	return d.fail
}

func (d *slowDevice) ReadAt(p []byte, off int64) (int, error) { return len(p), d.do(off) }
func (d *slowDevice) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	d.seen = append(d.seen, bytes.Clone(p[:16]))
	d.mu.Unlock()
	return len(p), d.do(off)
}

func TestRunKeepsDepth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &slowDevice{each: time.Millisecond}
		r, err := Run(t.Context(), d, Job{Block: 4096, Depth: 8, Span: 1 << 20, Time: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		// 8 at a time, 1 ms each, for one second.
		if r.Requests < 7990 || r.Requests > 8010 {
			t.Errorf("%d requests, want 8000", r.Requests)
		}
		if m := r.Latency.Mean(); m != time.Millisecond {
			t.Errorf("mean latency %v", m)
		}
		slices.Sort(d.at)
		if d.at[0] != 0 || d.at[len(d.at)-1] != 1<<20-4096 {
			t.Errorf("from %d to %d", d.at[0], d.at[len(d.at)-1])
		}
	})
}

func TestRunWritesNewPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &slowDevice{each: time.Millisecond}
		if _, err := Run(t.Context(), d, Job{Write: true, Random: true, Block: 4096, Depth: 2, Span: 1 << 20, Time: 100 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(d.seen, bytes.Compare)
		if n := len(slices.CompactFunc(d.seen, bytes.Equal)); n < 190 {
			t.Errorf("only %d different pages", n)
		}
	})
}

func TestRunEndsAtFirstError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &slowDevice{each: time.Millisecond, fail: errors.New("broken")}
		start := time.Now()
		_, err := Run(t.Context(), d, Job{Block: 4096, Depth: 4, Span: 1 << 20, Time: time.Hour})
		if err == nil || !strings.Contains(err.Error(), "broken") {
			t.Fatalf("got %v", err)
		}
		if e := time.Since(start); e > time.Second {
			t.Fatalf("ended after %v", e)
		}
	})
}

func TestJobValidate(t *testing.T) {
	good := Job{Block: 4096, Depth: 1, Span: 8192, Time: 1}
	for name, change := range map[string]func(*Job){
		"block": func(j *Job) { j.Block = 100 }, "depth": func(j *Job) { j.Depth = 0 },
		"span": func(j *Job) { j.Span = 5000 }, "small span": func(j *Job) { j.Span = 0 }, "time": func(j *Job) { j.Time = 0 },
	} {
		j := good
		change(&j)
		if _, err := Run(t.Context(), &slowDevice{}, j); err == nil {
			t.Errorf("%s: %+v was run", name, j)
		}
	}
}
