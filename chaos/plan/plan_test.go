package plan

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"dmps/raid"
)

func drawOptions(t *rapid.T) Options {
	g := rapid.SampledFrom([]raid.Geometry{{K: 1, M: 1}, {K: 1, M: 2}, {K: 4, M: 2}, {K: 2, M: 1}}).Draw(t, "geometry")
	return Options{
		Redundancy: g, Servers: g.Members() + rapid.IntRange(0, 4).Draw(t, "spare"), Meta: rapid.SampledFrom([]int{1, 3, 5}).Draw(t, "meta"),
		Duration: time.Duration(rapid.IntRange(1, 600).Draw(t, "seconds")) * time.Second,
		Load:     rapid.SampledFrom([]Load{Mixed, Single}).Draw(t, "load"),
		Bear:     rapid.IntRange(0, g.Members()).Draw(t, "bear"), NoHeals: rapid.Bool().Draw(t, "noheals"),
	}
}

// TestNew: what is generated is valid, says the same again, comes from the
// seed alone, and keeps the budget.
func TestNew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o, seed := drawOptions(t), rapid.Uint64().Draw(t, "seed")
		p := New(seed, o)
		if err := p.Validate(); err != nil {
			t.Fatalf("%v\n%v", err, p)
		}
		q, err := Parse(p.String())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(p, q); d != "" {
			t.Fatal(d)
		}
		if d := cmp.Diff(p, New(seed, o)); d != "" {
			t.Fatal(d)
		}
		touched := map[Role]bool{}
		for _, s := range p.Steps {
			if s.Kind == Heal {
				clear(touched)
			}
			for _, r := range s.Touches() {
				touched[r] = true
			}
			if len(touched) > p.Bear {
				t.Fatalf("%v: %v\n%v", s, touched, p)
			}
		}
	})
}

// TestEveryKindComes: the weights reach all kinds, and those of weight 0 stay
// away.
func TestEveryKindComes(t *testing.T) {
	o := Options{Redundancy: raid.Geometry{K: 4, M: 2}, Servers: 8, Meta: 3, Duration: time.Hour}
	seen := map[Kind]int{}
	for _, s := range New(1, o).Steps {
		seen[s.Kind]++
	}
	for _, k := range append(Kinds(), Heal) {
		if seen[k] == 0 {
			t.Errorf("an hour without %v: %v", k, seen)
		}
	}
	o.Weights = map[Kind]int{Freeze: 1}
	for _, s := range New(1, o).Steps {
		if s.Kind != Freeze && s.Kind != Heal {
			t.Fatalf("%v was not asked for", s)
		}
	}
}

const golden = `# dmps chaos plan
seed 42
redundancy rs:4+2
servers 8
meta 3
duration 1m0s
bear 2
load single

at 1.5s kill server3 for 4s
at 2s freeze meta1 for 3s
at 2s restart client
at 3s cut client>server3 for 2s
at 3s cut server4-meta for 2s
at 3s delay server1-server2 by 20ms for 2s
at 3.5s throttle client-server4 to 65536 for 2s
at 4s reset client-server3
at 6.5s corrupt server3 bytes 4
at 7s fill meta2 for 6s
at 8s clock meta1 by -1h0m0s for 5s
at 20s heal
at 21s takeover client without none for 1s
at 22s zero server3
at 22s swap server3 slots 5
at 22s rewind server3 for 1s
at 24s takeover client without server3,server5 for 2s
`

func TestText(t *testing.T) {
	p, err := Parse(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(golden, p.String()); d != "" {
		t.Error(d)
	}
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
	// Comments and blank lines, in any order; the budget is the redundancy's.
	q, err := Parse("at 1s heal # so it goes\n\nmeta 1\nseed 1\nservers 3\nredundancy mirror:3\nduration 5s\n")
	if err != nil || q.Bear != 2 || len(q.Steps) != 1 {
		t.Errorf("%v, %v", q, err)
	}
}

func TestParseTellsAll(t *testing.T) {
	_, err := Parse("seed x\nseed 2\nservers -1\nwhat 3\nat 1s\nat 1s kill\nat 1s kill server1 for\nat 1s cut server1 for 1s\n" +
		"at -1s heal\nat 1s dance server1\nat 1s heal now\nat 1s delay client-server1 at 3s for 1s\nredundancy rs:4\nload none\n")
	if err == nil {
		t.Fatal("nonsense was read")
	}
	for _, want := range []string{
		"line 1:", "line 2: seed is there twice", "line 3:", `line 4: "what"`, "line 5:", "line 6: kill: a role", "line 7: kill: a value after for",
		`line 8: cut: "server1" is no link`, "line 9: duration -1s", `line 10: fault "dance"`, `line 11: heal: "now" is too much`,
		`line 12: delay: want "by", have "at"`, "line 13: redundancy", `line 14: load "none"`, `no line "meta"`, `no line "duration"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
}

func TestValidateTellsAll(t *testing.T) {
	head := "seed 1\nredundancy mirror:3\nservers 4\nmeta 3\nduration 20s\n"
	for _, c := range []struct{ steps, want string }{
		{"at 2s heal\nat 1s heal", "step 2 (at 1s heal): is before the one above"},
		{"at 19s kill server1 for 2s", "within the duration"},
		{"at 1s kill server5 for 1s", "there is no server5"},
		{"at 1s kill meta for 1s", "there is no meta"},
		{"at 1s kill server01 for 1s", "there is no server01"},
		{"at 1s kill server1 for 0s", "lasts no time"},
		{"at 1s cut client-client for 1s", "two ends"},
		{"at 1s corrupt meta1 bytes 1", "only servers hold pages"},
		{"at 1s corrupt server1 bytes 0", "1 to 4096"},
		{"at 1s fill server1 for 1s", "only metadata nodes"},
		{"at 1s clock meta1 by 0s for 1s", "whole seconds"},
		{"at 1s throttle client-server1 to 5 for 1s", "at least 4096"},
		{"at 1s delay client-server1 by 0s for 1s", "no delay"},
		{"at 1s kill server1 for 2s\nat 2s freeze server1 for 1s", "server1 is broken already"},
		{"at 1s cut client-server1 for 2s\nat 2s cut client-server1 for 1s", "the link is broken already"},
		{"at 1s kill server1 for 1s\nat 1s freeze server2 for 1s\nat 1s cut server3>client for 1s", "touches more than 2"},
		{"at 1s cut server1-meta for 1s\nat 1s freeze server2 for 1s\nat 1s delay client-server3 by 1s for 1s", "touches more than 2"},
		{"at 1s corrupt server1 bytes 1\nat 2s heal\nat 3s kill server2 for 1s\nat 3s kill server3 for 1s", "touches more than 2"},
		{"at 1s corrupt server1 bytes 1\nat 2s kill server1 for 1s\nat 4s heal\nat 5s kill server2 for 1s\nat 5s kill server3 for 1s", ""},
		{"at 1s kill server1 for 1s\nat 4s heal\nat 5s kill server2 for 1s\nat 5s kill server3 for 1s", ""},
		{"at 1s cut server1-server2 for 1s\nat 1s cut server3-server4 for 1s\nat 1s cut server2-server3 for 1s", ""},
		{"bear 3\nat 1s kill server1 for 1s\nat 1s kill server2 for 1s\nat 1s kill server3 for 1s", ""},
		{"bear 9", "bear 9"},
		{"at 1s zero meta1", "only servers hold pages"},
		{"at 1s rewind client for 1s", "only servers hold pages"},
		{"at 1s swap server1 slots 0", "1 to 256 pairs"},
		{"at 1s takeover server1 without none for 1s", "only a client"},
		{"at 1s takeover client without server1,server1 for 1s", "server1 is no other server"},
		{"at 1s takeover client without server5 for 1s", "server5 is no other server"},
		{"at 1s takeover client without server1,server2 for 1s\nat 3s kill server3 for 1s", "touches more than 2"},
		{"at 1s takeover client without none for 2s\nat 2s kill client for 1s", "client is broken already"},
		{"at 1s zero server1\nat 2s heal\nat 3s kill server2 for 1s\nat 3s kill server3 for 1s", "touches more than 2"},
		{"at 1s rewind server1 for 1s\nat 2s restart server1\nat 4s heal\nat 5s kill server2 for 1s\nat 5s kill server3 for 1s", ""},
	} {
		p, err := Parse(head + c.steps)
		if err != nil {
			t.Fatalf("%s: %v", c.steps, err)
		}
		err = p.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\n\tgot %v, want %q", c.steps, err, c.want)
		}
	}
	bad := &Plan{Redundancy: raid.Geometry{K: 4, M: 2}, Servers: 3, Meta: 2, Bear: -1}
	err := bad.Validate()
	for _, want := range []string{"needs 6 servers", "2 metadata nodes", "duration 0s", "bear -1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}

func TestLinkHas(t *testing.T) {
	for _, c := range []struct {
		link     string
		from, to Role
		want     bool
	}{
		{"client-server1", "client", "server1", true},
		{"client-server1", "server1", "client", true},
		{"client>server1", "client", "server1", true},
		{"client>server1", "server1", "client", false},
		{"server1-meta", "meta3", "server1", true},
		{"server1>meta", "meta3", "server1", false},
		{"meta1-meta", "meta1", "meta2", true},
		{"client-server1", "client", "server2", false},
	} {
		l, ok := parseLink(c.link)
		if !ok || l.Has(c.from, c.to) != c.want {
			t.Errorf("%s from %s to %s: not %v", c.link, c.from, c.to, c.want)
		}
	}
}

// TestTakeoverCuts: the first client and its servers hear nobody else, and each other.
func TestTakeoverCuts(t *testing.T) {
	f := Fault{Kind: Takeover, On: Client, Without: []Role{Server(2)}}
	has := func(from, to Role) bool {
		for _, l := range f.Cuts(3) {
			if l.Has(from, to) {
				return true
			}
		}
		return false
	}
	for _, c := range []struct {
		a, b Role
		cut  bool
	}{
		{Client, Server(1), true}, {Client, Server(2), false}, {Client, Meta(1), true}, {Server(2), Meta(2), true},
		{Server(2), Server(3), true}, {Server(1), Server(3), false}, {Second, Server(2), true}, {Second, Server(1), false}, {Second, Meta(1), false},
	} {
		if has(c.a, c.b) != c.cut || has(c.b, c.a) != c.cut {
			t.Errorf("from %s to %s: want cut %v", c.a, c.b, c.cut)
		}
	}
}

// TestKept: every plan that is kept can be run.
func TestKept(t *testing.T) {
	files, err := filepath.Glob("../testdata/*.plan")
	if err != nil || len(files) == 0 {
		t.Fatalf("no plans are kept: %v", err)
	}
	open, err := filepath.Glob("../testdata/open/*.plan")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files, open...) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Parse(string(b))
		if err == nil {
			err = p.Validate()
		}
		if err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
}

// FuzzParse: what is read is written so that it reads the same again.
func FuzzParse(f *testing.F) {
	f.Add(golden)
	f.Add("seed 1\nredundancy none\nservers 1\nmeta 1\nduration 1ns\nat 0s cut a>b>c for 1h\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		_ = p.Validate()
		q, err := Parse(p.String())
		if err != nil {
			t.Fatalf("%v\n%s", err, p)
		}
		if d := cmp.Diff(p, q); d != "" {
			t.Fatal(d)
		}
	})
}
