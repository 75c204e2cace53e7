package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"dmps/client"
	"dmps/internal/bytesize"
)

// The one order that a client's admin address takes, and the latencies that it
// tells; admin.go has the rest.

// healing is what of a client.Volume they need.
type healing interface {
	SetRebuildRate(bytesPerSecond int64)
	WakeRebuild()
}

// takeRebuild serves POST /rebuild: the client looks for a newer layout and for
// members to fill at once. rate=SIZE sets what they may take together in a
// second; 0 is no limit. It is until the client ends.
func takeRebuild(mux *http.ServeMux, v healing) {
	mux.HandleFunc("POST /rebuild", func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); q.Has("rate") {
			rate, err := bytesize.Parse(q.Get("rate"))
			if err != nil {
				http.Error(w, "rate: "+err.Error(), http.StatusBadRequest)
				return
			}
			v.SetRebuildRate(int64(rate))
		}
		v.WakeRebuild()
		w.WriteHeader(http.StatusNoContent)
	})
}

// orderRebuild has the client at an admin address rebuild now, with a rate
// unless it is nil.
func orderRebuild(ctx context.Context, base string, rate *bytesize.Size) error {
	path := "/rebuild"
	if rate != nil {
		path += "?rate=" + url.QueryEscape(strconv.FormatInt(int64(*rate), 10))
	}
	r, err := post(ctx, base, path, nil, livePatience)
	if err == nil && r.code != http.StatusNoContent {
		err = r.err()
	}
	if err != nil {
		return fmt.Errorf("telling the client: %w", err)
	}
	return nil
}

// latencies is the answer of a client's /latency: how many requests of front
// ends took how long, since it was started. The difference of two answers is
// what happened between them.
type latencies struct {
	At     time.Time      `json:"at"`
	Epoch  uint64         `json:"epoch"`
	Bounds []int64        `json:"bounds_ns"` // upper bounds of the buckets
	Read   client.Buckets `json:"read"`
	Write  client.Buckets `json:"write"`
}

func fetchLatencies(ctx context.Context, base string) (latencies, error) {
	var l latencies
	b, err := fetchAdmin(ctx, base, "/latency")
	if err == nil {
		err = json.Unmarshal(b, &l)
	}
	if err != nil {
		return latencies{}, fmt.Errorf("asking the client for latencies: %w", err)
	}
	return l, nil
}
