// Package bytesize reads and prints amounts of memory.
//
// It exists because flags, tables and error messages must agree: what String
// prints, Parse reads back exactly, so a size in a recorded command line means
// the same when the command is run again.
package bytesize

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes. *Size is a pflag.Value.
type Size int64

// Units of memory. Those of a kilo of 1000 are read, never printed.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

var units = []struct {
	suffix string
	size   Size
}{
	// The order matters: the longest suffix first.
	{"kib", KiB}, {"mib", MiB}, {"gib", GiB}, {"tib", TiB},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12},
	{"k", KiB}, {"m", MiB}, {"g", GiB}, {"t", TiB},
	{"b", 1},
}

var errSyntax = errors.New("use a number with a unit, for example 64MiB, 1.5GiB or 4096")

// Parse reads a size: a number, with a fraction if there is a unit, then KiB,
// MiB, GiB, TiB (1024), K, M, G, T (the same), KB, MB, GB, TB (1000) or
// nothing. Case does not matter, nor a space before the unit.
func Parse(s string) (Size, error) {
	text := strings.ToLower(strings.TrimSpace(s))
	unit := Size(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(text, u.suffix); ok {
			text, unit = strings.TrimRight(rest, " "), u.size
			break
		}
	}
	if text == "" || strings.Trim(text, "0123456789.") != "" {
		return 0, fmt.Errorf("size %q: %w", s, errSyntax)
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		if n > math.MaxInt64/int64(unit) {
			return 0, fmt.Errorf("size %q: too large", s)
		}
		return Size(n) * unit, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || unit == 1 {
		return 0, fmt.Errorf("size %q: %w", s, errSyntax)
	}
	f *= float64(unit)
	if f >= math.MaxInt64 {
		return 0, fmt.Errorf("size %q: too large", s)
	}
	return Size(f), nil
}

// String is the exact size in the largest unit that leaves no fraction.
func (s Size) String() string {
	for _, u := range []struct {
		size Size
		name string
	}{{TiB, "TiB"}, {GiB, "GiB"}, {MiB, "MiB"}, {KiB, "KiB"}} {
		if s != 0 && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Human is the size for people: three digits that matter.
func (s Size) Human() string {
	switch {
	case s >= TiB:
		return scaled(s, TiB, "TiB")
	case s >= GiB:
		return scaled(s, GiB, "GiB")
	case s >= MiB:
		return scaled(s, MiB, "MiB")
	case s >= KiB:
		return scaled(s, KiB, "KiB")
	}
	return fmt.Sprintf("%d B", int64(s))
}

func scaled(s, unit Size, name string) string {
	f := float64(s) / float64(unit)
	digits := 0
	switch {
	case s%unit == 0:
	case f < 10:
		digits = 2
	case f < 100:
		digits = 1
	}
	return strconv.FormatFloat(f, 'f', digits, 64) + " " + name
}

// Set and Type make *Size a pflag.Value.
func (s *Size) Set(text string) error {
	v, err := Parse(text)
	if err != nil {
		return err
	}
	*s = v
	return nil
}

// Type is what help texts call the value.
func (*Size) Type() string { return "size" }
