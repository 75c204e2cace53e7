package raid

import (
	"testing"

	"pgregory.net/rapid"
)

func TestGeometryStringRoundTrip(t *testing.T) {
	all := allGeometries()
	if len(all) != 4+15*4 { // none and mirrors of 2 to 4, then K=2..16 with M=1..4
		t.Errorf("%d geometries are valid", len(all))
	}
	for _, g := range all {
		if got, err := ParseGeometry(g.String()); err != nil || got != g {
			t.Errorf("%v: parsed %v, %v", g, got, err)
		}
	}
}

func TestParseGeometry(t *testing.T) {
	for s, want := range map[string]Geometry{
		"none":     {K: 1},
		"mirror:2": {K: 1, M: 1},
		"mirror:4": {K: 1, M: 3},
		"rs:2+1":   {K: 2, M: 1},
		"rs:16+4":  {K: 16, M: 4},
	} {
		if got, err := ParseGeometry(s); err != nil || got != want {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{
		"", "None", "none ", "mirror", "mirror:", "mirror:1", "mirror:5", "mirror:+3", "mirror:03", "mirror:-2", "mirror:2x",
		"rs", "rs:", "rs:4", "rs:4+", "rs:+2", "rs:4+2+1", "rs:1+1", "rs:4+0", "rs:17+1", "rs:4+5", "rs:+4+2", "rs:4++2", "rs:04+2",
		"rs:-4+2", "rs:4 + 2", "rs:99999999999999999999+2", "rs:18446744073709551620+2", "raid5",
	} {
		if got, err := ParseGeometry(s); err == nil {
			t.Errorf("%q: accepted as %v", s, got)
		} else if got != (Geometry{}) {
			t.Errorf("%q: refused, yet gives %v", s, got)
		}
	}
}

func TestGeometryValidate(t *testing.T) {
	for _, g := range []Geometry{{}, {K: -1, M: 1}, {K: 17, M: 2}, {K: 4, M: -1}, {K: 4, M: 5}, {K: 4}, {K: 1, M: 4}} {
		if g.Validate() == nil {
			t.Errorf("K=%d M=%d is valid", g.K, g.M)
		}
	}
	if g := (Geometry{K: 1, M: 2}); !g.Mirror() || g.Members() != 3 {
		t.Errorf("mirror of 3: %v, %d members", g.Mirror(), g.Members())
	}
	if (Geometry{K: 2, M: 1}).Mirror() {
		t.Error("2+1 is a mirror")
	}
}

func FuzzParseGeometry(f *testing.F) {
	for _, s := range []string{"none", "mirror:2", "rs:4+2", "rs:+4+2", "mirror:", "rs:9223372036854775808+1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		g, err := ParseGeometry(s)
		if err != nil {
			return
		}
		if g.String() != s {
			t.Fatalf("%q is read as %v", s, g)
		}
		if err := g.Validate(); err != nil {
			t.Fatalf("%q is accepted, but %v", s, err)
		}
	})
}

func TestLayoutKindStrings(t *testing.T) {
	for _, k := range []LayoutKind{LayoutLog, LayoutLinear, LayoutStriped} {
		if got, err := ParseLayoutKind(k.String()); err != nil || got != k {
			t.Errorf("%v: parsed %v, %v", k, got, err)
		}
	}
	if s := LayoutKind(9).String(); s != "layout(9)" {
		t.Errorf("unknown kind is %q", s)
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		if k, err := ParseLayoutKind(s); err == nil && k.String() != s {
			t.Fatalf("%q is read as %v", s, k)
		}
	})
}
