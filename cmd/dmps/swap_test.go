package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"dmps/internal/swapctl"
)

// Swap space is made by another process, whose answers come back whole.
func TestFormatApart(t *testing.T) {
	const size = 4 << 20
	path := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	s := &swapFlags{on: true}
	for i, want := range []bool{true, false} {
		if made, on, err := s.prepare(t.Context(), path, size, "swap0", quiet); made != want || on || err != nil {
			t.Errorf("time %d: made %v, in use %v, %v", i, made, on, err)
		}
	}
	if _, _, err := s.prepare(t.Context(), path, size, "other", quiet); !errors.Is(err, swapctl.ErrNotEmpty) {
		t.Errorf("with another label: %v", err)
	}
	s.force = true
	if made, _, err := s.prepare(t.Context(), path, size, "other", quiet); !made || err != nil {
		t.Errorf("by force: made %v, %v", made, err)
	}
	if _, _, err := s.prepare(t.Context(), path+"none", size, "x", quiet); err == nil {
		t.Error("no device became swap space")
	}
}
