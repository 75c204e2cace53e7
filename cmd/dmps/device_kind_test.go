package main

import (
	"errors"
	"strings"
	"testing"
)

func TestSettleDevice(t *testing.T) {
	for name, c := range map[string]struct {
		ask, onNBD, onUblk string
		noUblk             bool
		want, wrong        string
	}{
		"none":               {},
		"new, ublk there":    {ask: "auto", want: "ublk"},
		"new, no ublk":       {ask: "auto", noUblk: true, want: "nbd"},
		"waits on nbd":       {ask: "auto", onNBD: "/dev/nbd2", want: "/dev/nbd2"},
		"waits on ublk":      {ask: "auto", onUblk: "/dev/ublkb1", want: "/dev/ublkb1"},
		"both wait":          {ask: "auto", onNBD: "/dev/nbd2", onUblk: "/dev/ublkb1", wrong: "both wait"},
		"nbd, new":           {ask: "nbd", want: "nbd"},
		"nbd, goes on":       {ask: "/dev/nbd2", onNBD: "/dev/nbd2", want: "/dev/nbd2"},
		"nbd, waits on ublk": {ask: "nbd", onUblk: "/dev/ublkb1", wrong: "waits for this volume at /dev/ublkb1"},
		"ublk, goes on":      {ask: "ublk", onUblk: "/dev/ublkb1", want: "ublk"},
		"ublk, waits on nbd": {ask: "/dev/ublkb0", onNBD: "/dev/nbd2", wrong: "waits for this volume at /dev/nbd2"},
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
				waitsOnNBD:  func(string) (string, bool) { return c.onNBD, c.onNBD != "" },
				waitsOnUblk: func(string) (string, bool, error) { return c.onUblk, c.onUblk != "", nil },
			}, (&app{err: new(strings.Builder)}).logger())
			switch {
			case c.wrong == "" && (err != nil || d.path != c.want):
				t.Errorf("%q, %v", d.path, err)
			case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
				t.Errorf("%q, %v", d.path, err)
			}
		})
	}
	d := deviceFlags{path: "nbd"}
	if err := d.settle("x", drivers{
		waitsOnNBD:  func(string) (string, bool) { return "", false },
		waitsOnUblk: func(string) (string, bool, error) { return "", false, errors.New("the driver is broken") },
	}, nil); err == nil {
		t.Error("a driver that cannot say was believed")
	}
}
