package scenario

import "testing"

func TestField(t *testing.T) {
	const text = "Name:\tdmps\nVmRSS:\t  1234 kB\ngo_memstats_heap_sys_bytes 7.9e+06\n"
	for name, want := range map[string]string{"VmRSS:": "1234 kB", "go_memstats_heap_sys_bytes ": "7.9e+06"} {
		if v, err := field(text, name); err != nil || v != want {
			t.Errorf("%s: %q, %v", name, v, err)
		}
	}
	if v, err := field(text, "VmData:"); err == nil {
		t.Errorf("found %q", v)
	}
}

// TestGrew: the heap may not grow at all, the rest by a thread.
func TestGrew(t *testing.T) {
	before := footprint{resident: 1000, data: 5000, heap: 700}
	for _, c := range []struct {
		now  footprint
		want bool
	}{
		{before, false},
		{footprint{900, 4000, 600, 0}, false},
		{footprint{1000 + slackKiB, 5000 + slackKiB, 700, 0}, false},
		{footprint{1001 + slackKiB, 5000, 700, 0}, true},
		{footprint{1000, 5001 + slackKiB, 700, 0}, true},
		{footprint{1000, 5000, 701, 500}, true},
	} {
		if got := c.now.grewFrom(before); got != c.want {
			t.Errorf("%v from %v: %v", c.now, before, got)
		}
	}
}
