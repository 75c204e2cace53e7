package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"dmps/internal/blockdev"
)

// bootID tells this boot of this machine from all others.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // equal to nobody's
	}
	return strings.TrimSpace(string(b))
}

// takeDetach serves POST /detach: the client ends, and with it the device, which
// nobody can begin to use from here on. While somebody uses it, that is refused
// with 409.
func (a *admin) takeDetach(dev kernelDevice, end func()) {
	a.mux.HandleFunc("POST /detach", func(w http.ResponseWriter, r *http.Request) {
		if dev != nil {
			switch err := dev.Claim(r.Context()); {
			case errors.Is(err, blockdev.ErrInUse):
				http.Error(w, err.Error(), http.StatusConflict)
				return
			case err != nil:
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
		}
		w.WriteHeader(http.StatusAccepted)
		end()
	})
}

// orderDetach has the client at an admin address end.
func orderDetach(ctx context.Context, base string) error {
	r, err := post(ctx, base, "/detach", nil, detachPatience)
	if err == nil && r.code != http.StatusAccepted {
		err = r.err()
	}
	if err != nil {
		return fmt.Errorf("telling the client to end: %w", err)
	}
	return nil
}
