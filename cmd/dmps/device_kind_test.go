package main

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dmps/client/hostdev"
	"dmps/client/ublk"
)

// at are devices of one volume.
func at(paths ...string) []hostdev.Device {
	var all []hostdev.Device
	for _, p := range paths {
		kind := "nbd"
		if isUblk(p) {
			kind = "ublk"
		}
		all = append(all, hostdev.Device{Path: p, Kind: kind, Owner: ublk.Tag("dmps/x")})
	}
	return all
}

// Whatever is asked for, a volume that has a device gets no second one: what is
// swapped out to the first would be discarded.
func TestSettleDevice(t *testing.T) {
	for name, c := range map[string]struct {
		ask         string
		there       []hostdev.Device
		noUblk      bool
		want, wrong string
	}{
		"none":                 {},
		"new, ublk there":      {ask: "auto", want: "ublk"},
		"new, no ublk":         {ask: "auto", noUblk: true, want: "nbd"},
		"nbd, new":             {ask: "nbd", want: "nbd"},
		"number, new":          {ask: "/dev/nbd3", want: "/dev/nbd3"},
		"waits on nbd":         {ask: "auto", there: at("/dev/nbd2"), want: "/dev/nbd2"},
		"waits on ublk":        {ask: "auto", there: at("/dev/ublkb1"), want: "/dev/ublkb1"},
		"nbd, goes on":         {ask: "/dev/nbd2", there: at("/dev/nbd2"), want: "/dev/nbd2"},
		"nbd, any, goes on":    {ask: "nbd", there: at("/dev/nbd2"), want: "/dev/nbd2"},
		"ublk, goes on":        {ask: "ublk", there: at("/dev/ublkb1"), want: "/dev/ublkb1"},
		"ublk number, goes on": {ask: "/dev/ublkb1", there: at("/dev/ublkb1"), want: "/dev/ublkb1"},
		"nbd, waits on ublk":   {ask: "nbd", there: at("/dev/ublkb1"), wrong: "waits for this volume at /dev/ublkb1"},
		"ublk, waits on nbd":   {ask: "/dev/ublkb0", there: at("/dev/nbd2"), wrong: "waits for this volume at /dev/nbd2"},
		"any ublk, on nbd":     {ask: "ublk", there: at("/dev/nbd2"), wrong: "waits for this volume at /dev/nbd2"},
		"another nbd":          {ask: "/dev/nbd3", there: at("/dev/nbd0"), wrong: "waits for this volume at /dev/nbd0"},
		"another nbd, prefix":  {ask: "/dev/nbd1", there: at("/dev/nbd11"), wrong: "waits for this volume at /dev/nbd11"},
		"another ublk":         {ask: "/dev/ublkb3", there: at("/dev/ublkb0"), wrong: "waits for this volume at /dev/ublkb0"},
		"both kinds":           {ask: "auto", there: at("/dev/nbd2", "/dev/ublkb1"), wrong: "more than one device"},
		"two of nbd":           {ask: "/dev/nbd1", there: at("/dev/nbd0", "/dev/nbd1"), wrong: "more than one device"},
	} {
		t.Run(name, func(t *testing.T) {
			d := deviceFlags{path: c.ask}
			err := d.settle("dmps/x", drivers{
				ublk: func() error {
					if c.noUblk {
						return errors.New("no driver")
					}
					return nil
				},
				of: func(string) ([]hostdev.Device, error) { return c.there, nil },
			}, (&app{err: new(strings.Builder)}).logger())
			switch {
			case c.wrong == "" && (err != nil || d.path != c.want || d.waits != (len(c.there) == 1)):
				t.Errorf("%q, waits %v, %v", d.path, d.waits, err)
			case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
				t.Errorf("%q, %v", d.path, err)
			}
		})
	}
	d := deviceFlags{path: "nbd"}
	if err := d.settle("x", drivers{of: func(string) ([]hostdev.Device, error) { return nil, errors.New("the driver is broken") }}, nil); err == nil {
		t.Error("a driver that cannot say was believed")
	}
}

// Detach does not say that a volume is gone whose device the kernel has kept.
func TestRemains(t *testing.T) {
	none := func() ([]hostdev.Device, error) { return nil, nil }
	there := func() ([]hostdev.Device, error) { return at("/dev/nbd0"), nil }
	broken := func() ([]hostdev.Device, error) { return nil, errors.New("the driver is broken") }
	for name, c := range map[string]struct {
		identity, path string
		list           func() ([]hostdev.Device, error)
		gone           bool
	}{
		"gone":               {"dmps/x", "/dev/nbd0", none, true},
		"kept":               {"dmps/x", "/dev/nbd0", there, false},
		"another number":     {"dmps/x", "/dev/nbd1", there, false},
		"another volume's":   {"dmps/y", "/dev/nbd0", there, true},
		"old client, kept":   {"", "/dev/nbd0", there, false},
		"old client, gone":   {"", "/dev/nbd1", there, true},
		"nobody can tell":    {"dmps/x", "/dev/nbd0", broken, false},
		"old, cannot tell":   {"", "/dev/nbd0", broken, false},
		"no path, is asked ": {"dmps/x", "", there, false},
	} {
		if err := remains(c.identity, c.path, c.list); (err == nil) != c.gone {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A device may be there a little longer than the client, not much.
func TestLastly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := errors.New("kept")
		for _, c := range []struct {
			goneAfter time.Duration
			want      error
		}{{0, nil}, {time.Second, nil}, {time.Minute, kept}} {
			began := time.Now()
			err := lastly(t.Context(), func() error {
				if time.Since(began) >= c.goneAfter {
					return nil
				}
				return kept
			})
			if !errors.Is(err, c.want) || time.Since(began) > 2*keptPatience {
				t.Errorf("gone after %v: %v after %v", c.goneAfter, err, time.Since(began))
			}
		}
	})
}
