package plan

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"dmps/raid"
)

// Options say what New makes.
type Options struct {
	Redundancy raid.Geometry
	Servers    int
	Meta       int
	Duration   time.Duration
	Load       Load
	Bear       int  // servers touched at once; 0: as many as the redundancy bears
	NoHeals    bool // do not wait for heals between bursts: then only the first Bear servers are ever touched
	// Weights are how often a kind comes, against the others; nil: DefaultWeights.
	// A kind that is not in it does not come.
	Weights map[Kind]int
}

// DefaultWeights has all kinds. Damage to memory is rare: its server stays in the
// budget until it was killed.
func DefaultWeights() map[Kind]int {
	return map[Kind]int{
		Kill: 6, Freeze: 6, Restart: 3, Cut: 6, Delay: 4, Throttle: 1, Reset: 3, Corrupt: 1, Fill: 1, Clock: 2,
		Zero: 1, Swap: 1, Rewind: 1, Takeover: 2,
	}
}

// Times of generated plans.
const (
	quiet    = 500 * time.Millisecond // before the first fault, and after a heal
	burstMax = 5 * time.Second        // faults of a burst begin within this
	lastsMin = 100 * time.Millisecond
	lastsMax = 4 * time.Second
	grain    = time.Millisecond
	tries    = 8 // to find a fault that fits
)

// New makes the plan of a seed: bursts of one to eight faults that overlap, each
// followed by a heal. The same seed and options give the same plan, for as long
// as this function is not changed: a plan that matters is kept as a file.
func New(seed uint64, o Options) *Plan {
	if o.Bear == 0 {
		o.Bear = o.Redundancy.M
	}
	if o.Weights == nil {
		o.Weights = DefaultWeights()
	}
	g := &generator{
		o: o, r: rand.New(rand.NewPCG(seed, 0x64756d70)), book: newBook(o.Bear),
		p: &Plan{Seed: seed, Redundancy: o.Redundancy, Servers: o.Servers, Meta: o.Meta, Duration: o.Duration, Bear: o.Bear, Load: o.Load},
	}
	for k := Kill; k < Heal; k++ {
		g.total += o.Weights[k]
	}
	for at := quiet; at+lastsMin < o.Duration && g.total > 0; {
		at = g.burst(at)
		if !o.NoHeals && at <= o.Duration {
			g.p.Steps = append(g.p.Steps, Step{At: at, Fault: Fault{Kind: Heal}})
			g.book.heal()
		}
		at += quiet
	}
	return g.p
}

type generator struct {
	o     Options
	r     *rand.Rand
	book  *book
	p     *Plan
	total int // of the weights
}

// burst adds faults from at on, and gives the time when all of them are over.
func (g *generator) burst(at time.Duration) (over time.Duration) {
	span := g.between(lastsMin, burstMax)
	var starts []time.Duration
	for range 1 + g.r.IntN(8) {
		starts = append(starts, at+g.between(0, span))
	}
	slices.Sort(starts)
	over = at
	for _, s := range starts {
		for range tries {
			step := Step{At: s, Fault: g.fault()}
			if !g.fits(step) {
				continue
			}
			g.book.take(step)
			g.p.Steps = append(g.p.Steps, step)
			over = max(over, step.End())
			break
		}
	}
	return over + grain
}

// fits reports whether a step may come next.
func (g *generator) fits(s Step) bool {
	switch {
	case s.End() > g.o.Duration || !g.book.fits(s.Touches()):
		return false
	case s.Kind.OnLink():
		return s.At >= g.book.links[s.Link]
	}
	return s.At >= g.book.until[s.On]
}

func (g *generator) between(from, to time.Duration) time.Duration {
	return from + time.Duration(g.r.Int64N(int64((to-from)/grain)+1))*grain
}

// server picks one, of those that are broken anyway more often than not: then
// faults meet.
func (g *generator) server() Role {
	if len(g.book.touched) > 0 && g.r.IntN(2) == 0 {
		var t []Role
		for r := range g.book.touched {
			t = append(t, r)
		}
		slices.SortFunc(t, func(a, b Role) int { return cmp.Compare(a.number("server"), b.number("server")) })
		return t[g.r.IntN(len(t))]
	}
	return Server(1 + g.r.IntN(g.o.Servers))
}

// process picks any, servers most often.
func (g *generator) process() Role {
	switch p := g.r.IntN(100); {
	case p < 60:
		return g.server()
	case p < 80:
		return Meta(1 + g.r.IntN(g.o.Meta))
	default:
		return Client
	}
}

// fault makes one. Whether it fits in is for the caller.
func (g *generator) fault() Fault {
	f := Fault{Kind: g.kind()}
	if f.Kind.Lasts() {
		f.For = g.between(lastsMin, lastsMax)
	}
	switch f.Kind {
	case Kill, Freeze, Restart:
		f.On = g.process()
	case Corrupt:
		f.On, f.Count = g.server(), 1+g.r.IntN(8)
	case Zero, Rewind:
		f.On = g.server()
	case Swap:
		f.On, f.Count = g.server(), 1+g.r.IntN(8)
	case Takeover:
		f.On = Client
		for range g.r.IntN(g.o.Redundancy.M + 1) {
			if r := g.server(); !slices.Contains(f.Without, r) {
				f.Without = append(f.Without, r)
			}
		}
	case Fill:
		f.On = Meta(1 + g.r.IntN(g.o.Meta))
	case Clock:
		f.On = g.process()
		for f.By == 0 {
			f.By = time.Duration(g.r.IntN(2*86400)-86400) * time.Second
		}
	case Delay:
		f.Link, f.By = g.link(), g.between(grain, 150*time.Millisecond)
	case Throttle:
		f.Link, f.Rate = g.link(), 64<<10<<g.r.IntN(8)
	case Cut:
		f.Link = g.link()
		f.Link.OneWay = g.r.IntN(2) == 0
		if f.Link.OneWay && g.r.IntN(2) == 0 {
			f.Link.A, f.Link.B = f.Link.B, f.Link.A
		}
	case Reset:
		f.Link = g.link()
	}
	return f
}

func (g *generator) kind() Kind {
	n := g.r.IntN(g.total)
	k := Kill
	for ; n >= g.o.Weights[k]; k++ {
		n -= g.o.Weights[k]
	}
	return k
}

// link picks one that carries something.
func (g *generator) link() Link {
	meta := Meta(1 + g.r.IntN(g.o.Meta))
	switch p := g.r.IntN(100); {
	case p < 50:
		return Link{A: Client, B: g.server()}
	case p < 65:
		a, b := g.server(), Server(1+g.r.IntN(g.o.Servers))
		if a == b {
			return Link{A: Client, B: a}
		}
		return Link{A: a, B: b}
	case p < 80:
		return Link{A: g.server(), B: AllMeta}
	case p < 90 || g.o.Meta == 1:
		return Link{A: Client, B: AllMeta}
	default:
		other := Meta(1 + g.r.IntN(g.o.Meta))
		if other == meta {
			other = AllMeta
		}
		return Link{A: meta, B: other}
	}
}
