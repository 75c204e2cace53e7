package hostdev

import (
	"errors"
	"slices"
	"testing"

	"dmps/client/nbddev"
	"dmps/client/ublk"
)

// All devices of a volume are found, of each kind and number, and nobody else's.
func TestOf(t *testing.T) {
	l := lists{
		func() ([]nbddev.Held, error) {
			return []nbddev.Held{{Path: "/dev/nbd0", Identifier: "dmps/a"}, {Path: "/dev/nbd1", Identifier: "dmps/b"}, {Path: "/dev/nbd2", Identifier: "dmps/a"}}, nil
		},
		func() ([]ublk.Held, error) {
			return []ublk.Held{{Path: "/dev/ublkb0", Tag: ublk.Tag("dmps/a")}, {Path: "/dev/ublkb1", Tag: ublk.Tag("dmps/c")}}, nil
		},
	}
	for identity, want := range map[string][]string{
		"dmps/a": {"/dev/nbd0", "/dev/nbd2", "/dev/ublkb0"}, "dmps/b": {"/dev/nbd1"}, "dmps/c": {"/dev/ublkb1"}, "dmps/d": nil,
	} {
		found, err := l.of(identity)
		var got []string
		for _, d := range found {
			got = append(got, d.Path)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v; want %v", identity, got, err, want)
		}
	}
}

// A driver that cannot say is not one that has none.
func TestUnknownIsAnError(t *testing.T) {
	broken := errors.New("broken")
	n := func() ([]nbddev.Held, error) { return nil, nil }
	u := func() ([]ublk.Held, error) { return nil, nil }
	for _, l := range []lists{
		{func() ([]nbddev.Held, error) { return nil, broken }, u},
		{n, func() ([]ublk.Held, error) { return nil, broken }},
	} {
		if _, err := l.of("dmps/a"); !errors.Is(err, broken) {
			t.Errorf("a driver that cannot say was believed: %v", err)
		}
	}
}
