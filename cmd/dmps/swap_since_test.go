package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"dmps/internal/swapctl"
)

// A device that this boot swaps to is gone on with only while the volume's header is
// that of this boot: another machine may have had the volume meanwhile.
func TestStillOurs(t *testing.T) {
	const size = 4 << 20
	used := func(string) (*swapctl.Space, error) { return &swapctl.Space{Used: 1 << 20}, nil }
	unused := func(string) (*swapctl.Space, error) { return nil, nil }
	for name, c := range map[string]struct {
		boots []string // which have made the space theirs, one after the other
		find  func(string) (*swapctl.Space, error)
		ours  bool
	}{
		"this boot":                     {[]string{"a"}, used, true},
		"this boot, again":              {[]string{"b", "a", "a"}, used, true},
		"made by mkswap":                {[]string{""}, used, true},
		"another one since":             {[]string{"a", "b"}, used, false},
		"another one, and not swapped":  {[]string{"a", "b"}, unused, true},
		"no header any more":            {nil, used, false},
		"no header, and not swapped to": {nil, unused, true},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "volume"))
			if err == nil {
				defer f.Close()
				err = f.Truncate(size)
			}
			for _, boot := range c.boots {
				if err == nil {
					_, err = swapctl.Format(f, size, "v", boot, false)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := stillOurs(t.Context(), "/dev/nbd0", "a", f, c.find); (err == nil) != c.ours || err != nil && !errors.Is(err, errSwappedSince) {
				t.Error(err)
			}
		})
	}
	broken := errors.New("broken")
	if err := stillOurs(t.Context(), "/dev/nbd0", "a", nil, func(string) (*swapctl.Space, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	silent := silence(make(chan struct{}))
	if err := stillOurs(ctx, "/dev/nbd0", "a", silent, used); !errors.Is(err, context.Canceled) {
		t.Errorf("told to end while no server answers: %v", err)
	}
	close(silent)
}

// silence is a volume whose servers do not answer.
type silence chan struct{}

func (s silence) ReadAt([]byte, int64) (int, error) {
	<-s
	return 0, unix.EIO
}

// The swapon of an earlier client may come between mkswap and that of this one. And
// only what is dead is discarded.
func TestSwaponComesBetween(t *testing.T) {
	const size = 4 << 20
	path := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &swapFlags{on: true}
	var dead []bool
	if _, _, err := s.begin(t.Context(), fileDevice{path: path}, size, "v", slog.New(slog.DiscardHandler), func(d bool) error {
		if dead = append(dead, d); len(dead) == 1 {
			return fmt.Errorf("swapon: %w", unix.EBUSY)
		}
		return nil
	}); err != nil || !slices.Equal(dead, []bool{true, false}) {
		t.Errorf("swapon with %v, %v", dead, err)
	}
}

func TestSwaponArgs(t *testing.T) {
	for _, dead := range []bool{true, false} {
		if path, priority, d, err := swaponOf(swaponArgs("/dev/nbd0", -1, dead)); path != "/dev/nbd0" || priority != -1 || d != dead || err != nil {
			t.Errorf("%s, %d, %v, %v", path, priority, d, err)
		}
	}
	if _, _, _, err := swaponOf([]string{"/dev/nbd0", "x", "true"}); err == nil {
		t.Error("a priority that is no number")
	}
}
