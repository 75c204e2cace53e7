package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Whereabouts: an attach with a device leaves its admin address beside its pid
// file, so that detach finds it on a host whose metadata service does not
// answer, as at a shutdown of everything.

func whereabouts(dir, volume string) string {
	return filepath.Join(dir, "attach-"+volume+".admin")
}

// tellWhereabouts writes the address, and gives the function that takes it back.
func tellWhereabouts(dir, volume, url string) (takeBack func() error, err error) {
	path := whereabouts(dir, volume)
	if err := os.WriteFile(path+".new", []byte(url+"\n"), 0o644); err != nil {
		return nil, fmt.Errorf("leaving the admin address: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return nil, fmt.Errorf("leaving the admin address: %w", err)
	}
	return func() error {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("taking the admin address back: %w", err)
		}
		return nil
	}, nil
}

// metHere asks an attach of this host that left its address. False: there is
// none, or who left it is gone and its address nobody's, or another's.
func metHere(ctx context.Context, dir, volume string) (about adminStatus, base string, found bool) {
	b, err := os.ReadFile(whereabouts(dir, volume))
	if err != nil {
		return adminStatus{}, "", false
	}
	base = strings.TrimSpace(string(b))
	about, err = fetchAdminStatus(ctx, base)
	return about, base, err == nil && about.Volume == volume && about.Boot != "" && about.Boot == bootID()
}
