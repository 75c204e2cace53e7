package transport

import (
	"errors"
	"testing"
)

type ending struct {
	s     *Sessions[*ending]
	ended int
}

// Close ends as sessions do: it removes itself.
func (c *ending) Close() error {
	c.ended++
	c.s.Remove(c)
	return errors.New("ended before")
}

func TestSessions(t *testing.T) {
	var s Sessions[*ending]
	all := []*ending{{s: &s}, {s: &s}, {s: &s}}
	for _, c := range all {
		if err := s.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	s.Remove(all[1])
	s.Remove(all[1])
	for range 2 {
		s.Close()
	}
	for i, want := range []int{1, 0, 1} {
		if all[i].ended != want {
			t.Errorf("session %d was ended %d times", i, all[i].ended)
		}
	}
	if err := s.Add(all[1]); !errors.Is(err, ErrClosed) {
		t.Errorf("added after Close: %v", err)
	}
}
