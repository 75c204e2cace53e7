package care

import (
	"context"
	"errors"
	"sync"
	"time"

	"dmps/client"
	"dmps/raid"
)

// told notes what the metadata service was told last.
type told struct {
	client.Meta
	mu   sync.Mutex
	last client.Report
	any  bool
}

// Renew implements client.Meta.
func (t *told) Renew(ctx context.Context, volume raid.VolumeID, epoch raid.Epoch, r client.Report) (uint64, error) {
	version, err := t.Meta.Renew(ctx, volume, epoch, r)
	if err == nil {
		t.mu.Lock()
		t.last, t.any = r, true
		t.mu.Unlock()
	}
	return version, err
}

// healthy reports whether the last thing that was told is that all is well.
func (t *told) healthy() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.any && t.last.State == client.StateHealthy && t.last.DegradedRows == 0 && t.last.RebuildRows == 0
}

// mark is what tells that care gets on.
type mark struct {
	rows    int64 // that members were given
	filling int   // members that are being filled
	missing uint64
}

// watch looks after an open volume until there is nothing left to do for it,
// and says why it ends.
func (k *Keeper) watch(vol *client.Volume, told *told) string {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var last mark
	moved := time.Now()
	for {
		select {
		case <-k.ctx.Done():
			return "this server ends"
		case <-vol.Done():
			return "it was attached, or deleted"
		case <-tick.C:
		}
		filling, err := k.filling(vol.Layout().Volume)
		switch {
		case errors.Is(err, client.ErrNoVolume):
			return "it was deleted"
		case err != nil:
			continue // meta is away: the rebuild goes on, and is reported later
		case filling == 0 && told.healthy():
			return "it is whole"
		}
		r := vol.Report()
		now := mark{r.Counters["rebuilt_rows"] + r.Counters["cleaned_pages"], filling, r.RebuildRows + r.DegradedRows}
		if now != last {
			last, moved = now, time.Now()
		}
		if time.Since(moved) > stuckAfter {
			return "nothing gets better: members are away, or cannot be filled"
		}
	}
}

// filling counts the members that meta waits for.
func (k *Keeper) filling(volume raid.VolumeID) (n int, err error) {
	ctx, cancel := context.WithTimeout(k.ctx, leaveLimit)
	defer cancel()
	l, err := k.cfg.Meta.Layout(ctx, volume, 0)
	if err != nil {
		return 0, err
	}
	for _, g := range l.Groups {
		n += len(g.Pending)
		for _, m := range g.Members {
			if m.State == raid.MemberRebuilding {
				n++
			}
		}
	}
	return n, nil
}
