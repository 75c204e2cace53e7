package heal

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTable(t *testing.T) {
	r := Report{
		StreamBytes: 2048 << 20,
		Idle:        Rebuild{Dead: 1, Took: time.Second, Pulled: 1024 << 20},
		Rebuilds: []Rebuild{{
			Dead: 1, Guard: "on", Took: 2 * time.Second, Pulled: 600 << 20,
			Healthy:  Latency{P50: 100 * time.Microsecond, P99: 200 * time.Microsecond, Max: time.Millisecond, PerSecond: 1000},
			Degraded: Latency{P50: 110 * time.Microsecond, P99: 300 * time.Microsecond, Max: time.Millisecond, PerSecond: 900},
			During:   Latency{P50: 120 * time.Microsecond, P99: 360 * time.Microsecond, Max: 2 * time.Millisecond, PerSecond: 800},
		}},
		Stalls: []time.Duration{3 * time.Millisecond, 200 * time.Millisecond, time.Millisecond},
	}
	var b strings.Builder
	if err := r.Table(&b); err != nil {
		t.Fatal(err)
	}
	want := `dead  guard  when     p50    p99    max  reads/s  p99/healthy  rebuild
1     on     healthy  100µs  200µs  1ms  1000     1.00         
1     on     dead     110µs  300µs  1ms  900      1.50         
1     on     rebuild  120µs  360µs  2ms  800      1.80         2s, 300 MiB/s

without load: 1024 MiB/s in 1s, 0.50 of one TCP stream of 128 KiB messages (2048 MiB/s)
longest request of 3 faults: p50 3ms, p90 200ms, p100 200ms
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}

func TestStream(t *testing.T) {
	if v, err := stream(20 * time.Millisecond); err != nil || v <= 0 {
		t.Errorf("%v, %v", v, err)
	}
}
