package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"dmps/client"
)

// scrubOrder is the body of POST /scrub.
type scrubOrder struct {
	Rate *int64 `json:"rate,omitempty"` // bytes a second and server; 0: no limit; absent: the client's own
}

// scrubOrderPatience bounds an order: ending a scrub waits for the list that is
// under way.
const scrubOrderPatience = 40 * time.Second

// takeScrubs lets a client be told to scrub: POST /scrub, POST /scrub/stop. Both
// answer with the status of the scrub. Pages of browsers cannot: their
// requests name an origin.
func (a *admin) takeScrubs(vol *client.Volume, rate int64) {
	a.mux.HandleFunc("POST /scrub", func(w http.ResponseWriter, r *http.Request) {
		var o scrubOrder
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<12))
		if err == nil && len(bytes.TrimSpace(body)) > 0 {
			err = json.Unmarshal(body, &o)
		}
		switch {
		case err != nil || o.Rate != nil && *o.Rate < 0:
			http.Error(w, `the body is {"rate": BYTES_A_SECOND} or empty`, http.StatusBadRequest)
			return
		}
		if o.Rate == nil {
			o.Rate = &rate
		}
		code := http.StatusAccepted
		switch err := vol.StartScrub(client.ScrubOptions{Rate: *o.Rate}); {
		case err == nil:
		case errors.Is(err, client.ErrScrubRuns):
			code = http.StatusConflict
		case errors.Is(err, client.ErrNoScrub):
			http.Error(w, err.Error(), http.StatusNotImplemented)
			return
		default:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		writeScrub(w, vol, code)
	})
	a.mux.HandleFunc("POST /scrub/stop", func(w http.ResponseWriter, _ *http.Request) {
		vol.StopScrub()
		writeScrub(w, vol, http.StatusOK)
	})
}

func writeScrub(w http.ResponseWriter, vol *client.Volume, code int) {
	st := vol.Report().Scrub
	if st == nil {
		st = new(client.ScrubStatus) // nothing to stop
	}
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(b, '\n')) // a peer that has gone away is its own affair
}

// orderScrub has a client begin a scrub. running: one was running already, and
// this is its status.
func orderScrub(ctx context.Context, adminURL string, f scrubFlags) (st client.ScrubStatus, running bool, err error) {
	var o scrubOrder
	if f.rateGiven {
		rate := int64(f.rate)
		o.Rate = &rate
	}
	code, err := order(ctx, adminURL, "/scrub", o, &st)
	if err != nil {
		return st, false, fmt.Errorf("beginning a scrub: %w", err)
	}
	return st, code == http.StatusConflict, nil
}

func orderScrubStop(ctx context.Context, adminURL string) (st client.ScrubStatus, err error) {
	if _, err := order(ctx, adminURL, "/scrub/stop", struct{}{}, &st); err != nil {
		return st, fmt.Errorf("ending the scrub: %w", err)
	}
	return st, nil
}

// order posts to a client's admin address and reads the answer.
func order(ctx context.Context, adminURL, path string, body, answer any) (code int, err error) {
	b, err := json.Marshal(body)
	if err != nil {
		return 0, fmt.Errorf("asking the client: %w", err)
	}
	res, err := post(ctx, adminURL, path, bytes.NewReader(b), scrubOrderPatience)
	if err != nil {
		return 0, fmt.Errorf("asking the client: %w", err)
	}
	switch res.code {
	case http.StatusOK, http.StatusAccepted, http.StatusConflict:
	case http.StatusNotFound:
		return 0, fmt.Errorf("the client at %s does not know of scrubs: it is older than this program; restart it", adminURL)
	default:
		return 0, fmt.Errorf("the client refuses: %s", strings.TrimSpace(string(res.body)))
	}
	if err := json.Unmarshal(res.body, answer); err != nil {
		return 0, fmt.Errorf("asking the client: %w", err)
	}
	return res.code, nil
}
