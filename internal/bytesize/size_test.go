package bytesize

import (
	"testing"

	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Size
	}{
		{"0", 0}, {"4096", 4096}, {"64MiB", 64 * MiB}, {"64mib", 64 * MiB}, {"64M", 64 * MiB}, {"1 GiB", GiB},
		{"1.5GiB", GiB + 512*MiB}, {"1MB", 1_000_000}, {"12b", 12}, {" 2T ", 2 * TiB}, {"7TiB", 7 * TiB},
	} {
		got, err := Parse(c.in)
		if err != nil || got != c.want {
			t.Errorf("Parse(%q) = %d, %v; want %d", c.in, got, err, c.want)
		}
	}
	for _, in := range []string{"", "MiB", "-1", "1.5", "1e3", "0x10", "1.2.3GiB", "one", "9223372036854775807KiB", "99999999999TiB", "99999999.5TiB", "+5", "5 Mi"} {
		if got, err := Parse(in); err == nil {
			t.Errorf("Parse(%q) = %d, want an error", in, got)
		}
	}
}

func TestStringRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Size(rapid.Int64Min(0).Draw(t, "size"))
		if rapid.Bool().Draw(t, "whole MiB") {
			s = s >> 20 << 20
		}
		back, err := Parse(s.String())
		if err != nil || back != s {
			t.Fatalf("%d prints as %q, which reads as %d, %v", s, s.String(), back, err)
		}
	})
}

func TestHuman(t *testing.T) {
	for s, want := range map[Size]string{
		0: "0 B", 1023: "1023 B", KiB: "1 KiB", 1536: "1.50 KiB", 64 * MiB: "64 MiB",
		GiB + 200*MiB: "1.20 GiB", 15*GiB + 300*MiB: "15.3 GiB", 300*GiB + 1: "300 GiB", 2 * TiB: "2 TiB",
	} {
		if got := s.Human(); got != want {
			t.Errorf("%d: got %q, want %q", s, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"64MiB", "1.5GiB", "0", "", "9223372036854775807", "1e400", "..."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := Parse(in)
		if err == nil && s < 0 {
			t.Fatalf("Parse(%q) = %d", in, s)
		}
	})
}
