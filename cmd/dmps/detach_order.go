package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

// bootID tells this boot of this machine from all others.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // equal to nobody's
	}
	return strings.TrimSpace(string(b))
}

// takeDetach serves POST /detach: the client ends, and with it the device. While
// the kernel uses the device that is refused with 409.
func (a *admin) takeDetach(dev kernelDevice, end func()) {
	a.mux.HandleFunc("POST /detach", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" {
			http.Error(w, "not from a browser", http.StatusForbidden)
			return
		}
		if dev != nil {
			switch used, err := dev.InUse(); {
			case err != nil:
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			case used:
				http.Error(w, dev.Path()+" is in use: swapped to, mounted, or part of another device", http.StatusConflict)
				return
			}
		}
		w.WriteHeader(http.StatusAccepted)
		end()
	})
}

// orderDetach has the client at an admin address end.
func orderDetach(ctx context.Context, base string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("telling the client to end: %w", err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, detachPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(base, "/")+"/detach", nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close() // nothing is left in it
	text, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusAccepted {
		return fmt.Errorf("it answered %s: %s", res.Status, strings.TrimSpace(string(text)))
	}
	return nil
}
