package care

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"dmps/client"
	"dmps/raid"
	"dmps/transport"
)

// Limits of a Keeper's work on one volume.
const (
	lookEvery = 500 * time.Millisecond
	// stuckAfter is how long a volume is kept without anything getting better.
	stuckAfter = 20 * time.Second
	// leaveLimit bounds the end of a volume: nothing of its users is in flight.
	leaveLimit = 2 * time.Second
)

// Config of a Keeper. All but Logger is required.
type Config struct {
	Holder string // of the leases, for people: caretaker@SERVER
	Meta   client.Meta
	Dialer func() transport.Dialer // a new one for each volume
	Memory int64                   // bytes that all volumes together may take, by Need
	Logger *slog.Logger            // nil: slog.Default
}

// Keeper cares for volumes. It is safe for concurrent use.
type Keeper struct {
	cfg    Config
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu struct {
		sync.Mutex
		closed bool
		kept   map[string]int64    // volumes that are looked after, and what each may take; the sum is at most Memory
		large  map[string]struct{} // volumes that were left because of their size: said once
	}
}

// New makes a Keeper. End it with Close.
func New(cfg Config) *Keeper {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	k := &Keeper{cfg: cfg}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	k.mu.kept, k.mu.large = map[string]int64{}, map[string]struct{}{}
	return k
}

// Need is how many bytes caring for a volume of that many pages takes at most.
func Need(pages uint64) int64 {
	n := client.MapBytes(pages)
	n += 64 << 20 // page buffers without a front end, of the widest geometry, and the recovery's
	n += 16 << 20 // sessions, tables, reports
	return n
}

// Offer tells of a volume that needs care, by name, with its number of pages.
// It does not block: care begins, or does not, behind. A volume that is cared
// for already may be offered again.
func (k *Keeper) Offer(volume string, pages uint64) {
	need := Need(pages)
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, kept := k.mu.kept[volume]; kept || k.mu.closed {
		return
	}
	if need > k.cfg.Memory {
		if _, said := k.mu.large[volume]; !said {
			k.mu.large[volume] = struct{}{}
			k.cfg.Logger.Warn("a volume that nobody has attached needs to be rebuilt, and its page map does not fit: raise --care-memory, or attach it", "volume", volume, "needs", need, "allowed", k.cfg.Memory)
		}
		return
	}
	used := need
	for _, n := range k.mu.kept {
		used += n
	}
	if used > k.cfg.Memory {
		return // its turn comes, or another server has room
	}
	k.mu.kept[volume] = need
	k.wg.Go(func() {
		k.keep(volume)
		k.mu.Lock()
		delete(k.mu.kept, volume)
		k.mu.Unlock()
	})
}

// Close gives all leases back and waits until that is done.
func (k *Keeper) Close() {
	k.mu.Lock()
	k.mu.closed = true
	k.mu.Unlock()
	k.cancel()
	k.wg.Wait()
}

// keep cares for one volume, from the lease to its end.
func (k *Keeper) keep(volume string) {
	log := k.cfg.Logger.With("volume", volume)
	layout, lease, err := k.cfg.Meta.Attach(k.ctx, client.AttachRequest{Volume: volume, Holder: k.cfg.Holder, Care: true})
	if err != nil {
		// Somebody else was faster, or it needs nothing any more.
		log.Debug("a volume is not cared for", "cause", err)
		return
	}
	log = log.With("epoch", uint64(layout.Epoch))
	log.Info("rebuilding a volume that nobody has attached")
	told := &told{Meta: k.cfg.Meta}
	vol, err := client.Open(k.ctx, client.Config{
		Layout: layout, Lease: lease, Meta: told, Dialer: k.cfg.Dialer(), NoFrontEnd: true,
		AllowSwappable: true, // nobody pages to it
		Holder:         k.cfg.Holder, Logger: k.cfg.Logger,
	})
	if errors.Is(err, client.ErrFenced) {
		log.Info("a volume is cared for no longer", "cause", err)
		return // the lease is somebody else's
	}
	if err != nil {
		log.Warn("a volume cannot be rebuilt as it is", "err", err)
		if err := k.giveBack(layout); err != nil {
			log.Warn("the lease runs out by itself", "err", err)
		}
		return
	}
	why := k.watch(vol, told)
	ctx, cancel := context.WithTimeout(context.Background(), leaveLimit)
	defer cancel()
	if err := vol.Close(ctx); err != nil && !errors.Is(err, client.ErrFenced) {
		log.Warn("ending the care of a volume", "err", err)
	}
	r := vol.Report().Counters
	log.Info("a volume is cared for no longer", "cause", why, "rebuilt_rows", r["rebuilt_rows"], "pulled_bytes", r["rebuild_pulled_bytes"])
}

// giveBack ends a lease that was not used.
func (k *Keeper) giveBack(l *raid.Layout) error {
	ctx, cancel := context.WithTimeout(context.Background(), leaveLimit)
	defer cancel()
	if err := k.cfg.Meta.Detach(ctx, l.Volume, l.Epoch); err != nil && !errors.Is(err, client.ErrFenced) {
		return fmt.Errorf("giving back the care lease of volume %s: %w", l.Name, err)
	}
	return nil
}
