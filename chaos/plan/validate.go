package plan

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Limits of a plan. They keep a slip of the pen from filling a machine.
const (
	maxServers  = 64
	maxDuration = 7 * 24 * time.Hour
	maxBytes    = 4096 // corrupted at once
	maxPairs    = 256  // of slots
	minRate     = 4096
)

// Validate reports everything that keeps the plan from being run.
func (p *Plan) Validate() error {
	var errs []error
	add := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if err := p.Redundancy.Validate(); err != nil {
		errs = append(errs, err)
	} else if p.Servers < p.Redundancy.Members() {
		add("%v needs %d servers, have %d", p.Redundancy, p.Redundancy.Members(), p.Servers)
	}
	if p.Servers > maxServers {
		add("%d servers: at most %d", p.Servers, maxServers)
	}
	if p.Meta != 1 && p.Meta != 3 && p.Meta != 5 {
		add("%d metadata nodes: 1, 3 or 5", p.Meta)
	}
	if p.Duration <= 0 || p.Duration > maxDuration {
		add("duration %v: more than nothing and at most %v", p.Duration, maxDuration)
	}
	if p.Bear < 0 || p.Bear > p.Servers {
		add("bear %d: 0 to %d servers", p.Bear, p.Servers)
	}
	if p.Load >= loads {
		add("%v is unknown", p.Load)
	}
	book := newBook(p.Bear)
	for i, s := range p.Steps {
		bad := func(format string, a ...any) {
			errs = append(errs, fmt.Errorf("step %d (%v): %s", i+1, s, fmt.Sprintf(format, a...)))
		}
		if i > 0 && s.At < p.Steps[i-1].At {
			bad("is before the one above")
		}
		if s.At < 0 || s.End() > p.Duration {
			bad("does not lie within the duration of %v", p.Duration)
		}
		for _, why := range p.check(s.Fault) {
			bad("%s", why)
		}
		for _, why := range book.take(s) {
			bad("%s", why)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("chaos plan: %w", err)
	}
	return nil
}

// check says what is wrong with a fault by itself.
func (p *Plan) check(f Fault) (wrong []string) {
	no := func(format string, a ...any) { wrong = append(wrong, fmt.Sprintf(format, a...)) }
	if f.Kind.Lasts() && f.For <= 0 {
		no("lasts no time")
	}
	exists := func(r Role) bool {
		return r == Client || r.IsServer() && r.number("server") <= p.Servers || r.IsMeta() && r.number("meta") <= p.Meta
	}
	switch {
	case f.Kind == Heal:
	case f.Kind.OnLink():
		l := f.Link
		for _, r := range []Role{l.A, l.B} {
			if !exists(r) && r != AllMeta {
				no("there is no %s", r)
			}
		}
		if l.A == l.B && l.A != AllMeta {
			no("a link has two ends")
		}
	case !exists(f.On):
		no("there is no %s", f.On)
	}
	switch f.Kind {
	case Corrupt, Zero, Swap, Rewind:
		if !f.On.IsServer() {
			no("only servers hold pages")
		}
		if f.Kind == Corrupt && (f.Count < 1 || f.Count > maxBytes) {
			no("1 to %d bytes", maxBytes)
		}
		if f.Kind == Swap && (f.Count < 1 || f.Count > maxPairs) {
			no("1 to %d pairs of slots", maxPairs)
		}
	case Takeover:
		if f.On != Client {
			no("only a client is replaced")
		}
		for i, r := range f.Without {
			if !r.IsServer() || !exists(r) || slices.Contains(f.Without[:i], r) {
				no("%s is no other server", r)
			}
		}
	case Fill:
		if !f.On.IsMeta() {
			no("only metadata nodes have a disk")
		}
	case Clock:
		if f.By == 0 || f.By%time.Second != 0 {
			no("the clock jumps by whole seconds, and not by 0")
		}
	case Delay:
		if f.By <= 0 {
			no("no delay")
		}
	case Throttle:
		if f.Rate < minRate {
			no("at least %d bytes a second", minRate)
		}
	}
	return wrong
}

// book keeps account of what is broken.
type book struct {
	bear    int
	touched map[Role]bool          // since the last heal
	damaged map[Role]bool          // holds what is wrong, until it was killed and healed
	emptied map[Role]bool          // was killed since the last heal
	until   map[Role]time.Duration // a fault of the process lasts so long
	links   map[Link]time.Duration // likewise
}

func newBook(bear int) *book {
	return &book{
		bear: bear, touched: map[Role]bool{}, damaged: map[Role]bool{}, emptied: map[Role]bool{},
		until: map[Role]time.Duration{}, links: map[Link]time.Duration{},
	}
}

// fits reports whether a fault may touch servers.
func (b *book) fits(all []Role) bool {
	more := 0
	for _, r := range all {
		if !b.touched[r] {
			more++
		}
	}
	return more == 0 || len(b.touched)+more <= b.bear
}

// take notes a step and says what is wrong with its coming now.
func (b *book) take(s Step) (wrong []string) {
	switch {
	case s.Kind == Heal:
		b.heal()
		return nil
	case s.Kind.OnLink():
		if s.At < b.links[s.Link] {
			wrong = append(wrong, "the link is broken already")
		}
		b.links[s.Link] = s.End()
	default:
		if s.At < b.until[s.On] {
			wrong = append(wrong, fmt.Sprintf("%s is broken already", s.On))
		}
		b.until[s.On] = s.End()
	}
	touches := s.Touches()
	if !b.fits(touches) {
		wrong = append(wrong, fmt.Sprintf("touches more than %d servers since the last heal", b.bear))
	}
	for _, r := range touches {
		b.touched[r] = true
	}
	switch {
	case s.Kind.Damages():
		b.damaged[s.On] = true
		delete(b.emptied, s.On)
	case s.On.IsServer() && (s.Kind == Kill || s.Kind == Restart):
		b.emptied[s.On] = true
	}
	return wrong
}

// heal forgets what is over. Memory that was damaged and not emptied stays.
func (b *book) heal() {
	for r := range b.emptied {
		delete(b.damaged, r)
	}
	clear(b.emptied)
	clear(b.touched)
	for r := range b.damaged {
		b.touched[r] = true
	}
}
