package server

import (
	"context"
	"errors"
	"testing"
	"time"

	"dmps/transport"
)

// Rails of one session do not end each other, a rail that comes again ends its older
// self, and who does not know of a newer owner does not get in.
func TestFenceRails(t *testing.T) {
	s := start(t, Config{Cluster: "c"})
	attempt := uint32(0)
	open := func(epoch uint64, r transport.Rail) (transport.Session, *bool, error) {
		ended := new(bool)
		var ss transport.Session
		if attempt++; r.Session != 0 && r.Attempt == 0 {
			r.Attempt = attempt
		}
		h := transport.Hello{Cluster: "c", Volume: 1, Epoch: epoch, Rail: r}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ss, _, err := s.Open(ctx, h, func(error) {
			*ended = true
			ss.Close()
		})
		return ss, ended, err
	}
	const x, y = 11, 12 // sessions
	must := func(epoch uint64, r transport.Rail) *bool {
		t.Helper()
		_, ended, err := open(epoch, r)
		if err != nil {
			t.Fatal(err)
		}
		return ended
	}
	refused := func(epoch uint64, r transport.Rail, want error) {
		t.Helper()
		if _, _, err := open(epoch, r); !errors.Is(err, want) {
			t.Errorf("%+v: %v, want %v", r, err, want)
		}
	}
	check := func(when string, want bool, ended ...*bool) {
		t.Helper()
		for i, e := range ended {
			if *e != want {
				t.Errorf("%s: session %d ended: %v", when, i, *e)
			}
		}
	}
	refused(1, transport.Rail{Session: x, Join: true}, transport.ErrClosed) // nobody was there
	plain := must(1, transport.Rail{})
	refused(1, transport.Rail{Session: x, Join: true}, transport.ErrClosed)
	refused(1, transport.Rail{Join: true}, transport.ErrClosed) // an owner without rails is not to be joined
	check("refused rails", false, plain)
	x0 := must(1, transport.Rail{Session: x})
	check("first rail", true, plain)
	x1 := must(1, transport.Rail{Session: x, Index: 1, Join: true})
	x2 := must(1, transport.Rail{Session: x, Index: 2}) // its first hello, late
	check("further rails", false, x0, x1, x2)
	again := must(1, transport.Rail{Session: x, Index: 1, Join: true})
	check("a rail again", true, x1)
	check("a rail again", false, x0, x2, again)
	for late := uint32(1); late <= 3; late++ {
		refused(1, transport.Rail{Session: x, Index: 1, Attempt: late, Join: true}, transport.ErrClosed)
		refused(1, transport.Rail{Session: x, Index: 1, Attempt: late}, transport.ErrClosed)
	}
	refused(1, transport.Rail{Session: x, Index: transport.MaxRails, Join: true}, transport.ErrRefused)
	check("hellos that were overtaken", false, x0, x2, again)
	refused(2, transport.Rail{Session: x, Index: 1, Join: true}, transport.ErrClosed) // a newer epoch fences, it does not join
	refused(1, transport.Rail{Session: y, Index: 1, Join: true}, transport.ErrClosed)
	check("others that would join", false, x0, x2, again)
	y0 := must(1, transport.Rail{Session: y, Index: 1})
	check("another session of the same lease", true, x0, x2, again)
	refused(1, transport.Rail{Session: x, Index: 1, Join: true}, transport.ErrClosed)
	newer := must(2, transport.Rail{Session: y, Index: 1}) // the same number under a newer lease
	check("a newer lease", true, y0)
	refused(1, transport.Rail{Session: y, Join: true}, transport.ErrStaleEpoch)
	check("rails of an older lease", false, newer)
	last := must(2, transport.Rail{})
	check("an owner without rails", true, newer)
	refused(2, transport.Rail{Session: y, Join: true}, transport.ErrClosed)
	check("the rails that it ended", false, last)
}
