package client

import (
	"context"
	"time"

	"dmps/raid"
)

// tellOpening is how often the log says what an open waits for: with servers that
// do not answer it takes their time-outs and the patience, one after the other.
const tellOpening = 3 * time.Second

// doing notes what the open is at.
func (v *Volume) doing(what string) { v.stage.Store(&what) }

// keepTelling says what the open is at, and who does not answer, until ctx ends.
func (v *Volume) keepTelling(ctx context.Context) {
	began := time.Now()
	tick := time.NewTicker(tellOpening)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		silent := []raid.ServerID{}
		v.mu.Lock()
		for _, p := range v.allPeers() {
			if p.state != peerUp {
				silent = append(silent, p.id)
			}
		}
		v.mu.Unlock()
		v.log.Info("still opening the volume", "doing", *v.stage.Load(), "for", time.Since(began).Round(time.Second), "no_answer_from", silent)
	}
}
