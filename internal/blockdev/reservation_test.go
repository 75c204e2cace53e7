package blockdev

import (
	"errors"
	"testing"
)

// A claim is taken once and given back once, by whoever has it then.
func TestReservation(t *testing.T) {
	taken, given := 0, 0
	claim := func() (func() error, error) {
		taken++
		return func() error { given++; return nil }, nil
	}
	var r Reservation
	for range 2 {
		if err := r.Reserve(claim); err != nil || taken != 1 {
			t.Fatalf("%v, taken %d times", err, taken)
		}
	}
	release, err := r.Take(claim)
	if err != nil || taken != 1 {
		t.Fatalf("%v, taken %d times", err, taken)
	}
	if err := r.Release(); err != nil || given != 0 {
		t.Errorf("%v: given back %d times by one who does not have it", err, given)
	}
	if err := release(); err != nil || given != 1 {
		t.Errorf("%v, given back %d times", err, given)
	}
	if _, err := r.Take(claim); err != nil || taken != 2 {
		t.Errorf("%v: without a reservation it was taken %d times", err, taken)
	}
	refused := errors.New("refused")
	if err := r.Reserve(func() (func() error, error) { return nil, refused }); !errors.Is(err, refused) {
		t.Error(err)
	}
	if err := r.Release(); err != nil || given != 1 {
		t.Errorf("%v: given back what was refused", err)
	}
}
