package plan

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"dmps/raid"
)

// title is the first line of what String writes; Parse does without.
const title = "# dmps chaos plan"

// String is the plan as a file.
func (p *Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nseed %d\nredundancy %v\nservers %d\nmeta %d\nduration %v\nbear %d\n", title,
		p.Seed, p.Redundancy, p.Servers, p.Meta, p.Duration, p.Bear)
	if p.Load != Mixed {
		fmt.Fprintf(&b, "load %v\n", p.Load)
	}
	if len(p.Steps) > 0 {
		b.WriteByte('\n')
	}
	for _, s := range p.Steps {
		b.WriteString(s.String() + "\n")
	}
	return b.String()
}

// Parse reads what String writes. Blank lines are skipped, and what follows a #
// is a comment. A plan without a line "bear" bears what its redundancy does, one
// without a line "load" has the mixed one.
// Every line that cannot be read is an error of its own; whether the plan makes
// sense is for Validate.
func Parse(text string) (*Plan, error) {
	p := &Plan{Bear: -1}
	var errs []error
	seen := map[string]bool{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		var err error
		if words[0] == "at" {
			var s Step
			if s, err = parseStep(words); err == nil {
				p.Steps = append(p.Steps, s)
			}
		} else if seen[words[0]] {
			err = fmt.Errorf("%s is there twice", words[0])
		} else {
			seen[words[0]] = true
			err = p.parseHeader(words)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", n, err))
		}
	}
	for _, name := range []string{"seed", "redundancy", "servers", "meta", "duration"} {
		if !seen[name] {
			errs = append(errs, fmt.Errorf("no line %q", name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("chaos plan: %w", err)
	}
	if p.Bear < 0 {
		p.Bear = p.Redundancy.M
	}
	return p, nil
}

func (p *Plan) parseHeader(words []string) error {
	if len(words) != 2 {
		return fmt.Errorf("%q: want a name and a value", strings.Join(words, " "))
	}
	var err error
	v := words[1]
	switch words[0] {
	case "seed":
		p.Seed, err = strconv.ParseUint(v, 10, 64)
	case "redundancy":
		p.Redundancy, err = raid.ParseGeometry(v)
	case "servers":
		p.Servers, err = parseCount(v)
	case "meta":
		p.Meta, err = parseCount(v)
	case "bear":
		p.Bear, err = parseCount(v)
	case "duration":
		p.Duration, err = parseSpan(v)
	case "load":
		p.Load, err = ParseLoad(v)
	default:
		err = fmt.Errorf("%q is none of seed, redundancy, servers, meta, duration, bear, load, at", words[0])
	}
	return err
}

// maxCount bounds every number of things in a plan.
const maxCount = 1 << 20

func parseCount(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err == nil && (n < 0 || n > maxCount) {
		err = fmt.Errorf("%d: must be 0 to %d", n, maxCount)
	}
	return n, err
}

// parseSpan reads a duration that is not negative.
func parseSpan(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err == nil && d < 0 {
		err = fmt.Errorf("duration %v is negative", d)
	}
	return d, err
}

// parseStep reads: at OFFSET KIND [ROLE or LINK] [by D | to N | bytes N | slots N | without ROLES] [for D].
func parseStep(words []string) (Step, error) {
	var s Step
	if len(words) < 3 {
		return s, errors.New("a step is: at, an offset, a fault")
	}
	var err error
	if s.At, err = parseSpan(words[1]); err != nil {
		return s, err
	}
	ok := false
	if s.Kind, ok = parseKind(words[2]); !ok {
		return s, fmt.Errorf("fault %q is unknown", words[2])
	}
	rest := words[3:]
	next := func(what string) string {
		if err != nil || len(rest) == 0 {
			err = errors.Join(err, fmt.Errorf("%v: %s is missing", s.Kind, what))
			return ""
		}
		w := rest[0]
		rest = rest[1:]
		return w
	}
	word := func(want string) {
		if w := next(want); err == nil && w != want {
			err = fmt.Errorf("%v: want %q, have %q", s.Kind, want, w)
		}
	}
	switch {
	case s.Kind.OnLink():
		w := next("a link, such as client-server1")
		if s.Link, ok = parseLink(w); err == nil && !ok {
			err = fmt.Errorf("%v: %q is no link: write A-B, or A>B for one way", s.Kind, w)
		}
	case s.Kind != Heal:
		s.On = Role(next("a role, such as server1"))
	}
	value := func(w string, set func(string) error) {
		word(w)
		v := next("a value after " + w)
		if err == nil {
			if verr := set(v); verr != nil {
				err = fmt.Errorf("%v: %w", s.Kind, verr)
			}
		}
	}
	switch s.Kind {
	case Delay:
		value("by", func(v string) (err error) { s.By, err = parseSpan(v); return err })
	case Clock:
		value("by", func(v string) (err error) { s.By, err = time.ParseDuration(v); return err })
	case Throttle:
		value("to", func(v string) (err error) { s.Rate, err = strconv.ParseInt(v, 10, 64); return err })
	case Corrupt:
		value("bytes", func(v string) (err error) { s.Count, err = parseCount(v); return err })
	case Swap:
		value("slots", func(v string) (err error) { s.Count, err = parseCount(v); return err })
	case Takeover:
		value("without", func(v string) error { s.Without = splitRoles(v); return nil })
	}
	if s.Kind.Lasts() {
		value("for", func(v string) (err error) { s.For, err = parseSpan(v); return err })
	}
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%v: %q is too much", s.Kind, strings.Join(rest, " "))
	}
	return s, err
}
