package rails

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestAddress(t *testing.T) {
	for _, l := range [][]string{{"a"}, {"tcp://10.0.0.1:7301", "tcp://10.1.0.1:7301"}, strings.Split("a,b,c,d,e,f,g,h", ",")} {
		s, err := Join(l)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Split(s); err != nil || !slices.Equal(got, l) {
			t.Errorf("%q became %q, %v", l, got, err)
		}
	}
	for _, l := range [][]string{nil, {""}, {"a", ""}, {"a", "b", "a"}, {"a,b"}, {"a", strings.Repeat("x", MaxAddress)}, strings.Split("a,b,c,d,e,f,g,h,i", ",")} {
		if s, err := Join(l); err == nil {
			t.Errorf("%q became %q", l, s)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add("tcp://10.0.0.1:7301,tcp://10.1.0.1:7301")
	f.Add(",")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := Split(s)
		if err != nil {
			return
		}
		if got, err := Join(l); err != nil || got != s {
			t.Fatalf("%q became %q, %v", s, got, err)
		}
	})
}

// That nobody listens counts only when it is so at every address: it says that the
// server's memory is gone.
func TestUnreached(t *testing.T) {
	refused := fmt.Errorf("dial: %w", syscall.ECONNREFUSED)
	silent := errors.New("no answer")
	if err := unreached([]error{refused, refused}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("all refuse: %v", err)
	}
	for _, errs := range [][]error{{refused, silent}, {silent, refused}, {silent, silent}} {
		if err := unreached(errs); errors.Is(err, syscall.ECONNREFUSED) || !errors.Is(err, silent) {
			t.Errorf("%v: %v", errs, err)
		}
	}
}
