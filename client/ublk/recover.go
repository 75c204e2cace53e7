package ublk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// Errors of Start about devices that are there already.
var (
	ErrTaken     = errors.New("device belongs to something else")                // choose another number, or none
	ErrServed    = errors.New("volume is served by another process")             // end that one first
	ErrElsewhere = errors.New("volume has a block device with another number")   // requests wait there: name that one, or none
	ErrMismatch  = errors.New("device that waits is not as the volume needs it") // its requests cannot be answered
)

// How long the kernel may need until it notices that a server is gone. With a
// request of each tag in flight, none of its commands can be cancelled, and it
// notices only when the first request is 30 s old (ublk_timeout in ublk_drv.c,
// the block layer's default).
const (
	gonePatience  = 70 * time.Second // for a server whose process is gone
	alivePatience = 5 * time.Second  // for one that may be ending
	statePoll     = 10 * time.Millisecond
	openPatience  = 5 * time.Second // for whoever has a device open that was stopped
)

// find looks for the device of the volume. It returns nil when there is none
// that waits; a device of the volume that is dead, since its server ended
// between two commands, is removed.
func find(ctx context.Context, k kernel, cfg *Config) (*devInfo, error) {
	ids, err := k.devices()
	if err != nil {
		return nil, err
	}
	tag := Tag(cfg.Identity)
	var mine []devInfo
	for _, id := range ids {
		i, err := k.info(id)
		if errors.Is(err, errNoDevice) {
			continue // it was deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		switch {
		case i.tag == tag:
			mine = append(mine, i)
		case id == cfg.ID:
			return nil, fmt.Errorf("%s: %w (%v, process %d)", k.path(id), ErrTaken, i.state, i.pid)
		}
	}
	var waits []devInfo
	for _, i := range mine {
		if i.state != stateDead {
			waits = append(waits, i)
		} else if err := removeDead(ctx, k, int(i.id)); err != nil {
			return nil, err
		}
	}
	switch {
	case len(waits) == 0:
		return nil, nil
	case len(waits) > 1:
		return nil, fmt.Errorf("%w: %s and %s both wait for this volume", ErrMismatch, k.path(int(waits[0].id)), k.path(int(waits[1].id)))
	case cfg.ID != AnyID && int(waits[0].id) != cfg.ID:
		return nil, fmt.Errorf("%w: %s (%v)", ErrElsewhere, k.path(int(waits[0].id)), waits[0].state)
	}
	return untilQuiesced(ctx, k, cfg, waits[0])
}

// untilQuiesced waits for the kernel to see that the old server is gone. nil
// without an error: the device has gone too.
func untilQuiesced(ctx context.Context, k kernel, cfg *Config, i devInfo) (*devInfo, error) {
	id, told := int(i.id), false
	for began := time.Now(); ; {
		switch i.state {
		case stateQuiesced:
			return &i, nil
		case stateDead: // it was being stopped
			return nil, removeDead(ctx, k, id)
		case stateFailIO:
			return nil, fmt.Errorf("%s: %w: it fails its requests", k.path(id), ErrMismatch)
		}
		patience := gonePatience
		if i.pid > 0 && k.alive(int(i.pid)) {
			patience = alivePatience
		}
		if time.Since(began) > patience {
			return nil, fmt.Errorf("%s: %w: number %d", k.path(id), ErrServed, i.pid)
		}
		if !told && time.Since(began) > time.Second {
			told = true
			cfg.Log.Info("waiting for the kernel to notice that the old client has ended", "device", k.path(id), "process", i.pid)
		}
		if err := sleep(ctx, statePoll); err != nil {
			return nil, err
		}
		var err error
		if i, err = k.info(id); errors.Is(err, errNoDevice) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
	}
}

// removeDead deletes a device that was stopped. The driver waits for whoever has it open
// still, to swap say: not for longer than udev may.
func removeDead(ctx context.Context, k kernel, id int) error {
	ctx, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- k.remove(id) }() // it ends with the process, or with the use of the device
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s was stopped, and somebody has it open still, whose requests fail: end that use: %w", k.path(id), ctx.Err())
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// resume takes over a quiesced device (UBLK_F_USER_RECOVERY in
// Documentation/block/ublk.rst). Requests that the old server had not answered
// are asked again; that a write may then be done twice does no harm: the kernel
// has kept its pages, and what the old client had under way is refused by the
// servers, which have seen a newer lease.
//
// Between startRecovery and the last fetch nothing is done that could take
// long: a client that is killed there with some queues fetched and some not
// leaves a device that the driver of 6.12 does not give to anybody any more.
func resume(ctx context.Context, k kernel, cfg *Config, old *devInfo) (*Server, error) {
	id := int(old.id)
	l, err := k.limits(id)
	if err != nil {
		return nil, err
	}
	switch {
	case old.flags&(wanted|unwanted) != wanted:
		return nil, fmt.Errorf("%s: %w: it has flags %#x, not %#x", k.path(id), ErrMismatch, old.flags, uint64(wanted))
	case l.size != cfg.Device.Size():
		return nil, fmt.Errorf("%s: %w: it has %d bytes, the volume %d", k.path(id), ErrMismatch, l.size, cfg.Device.Size())
	case old.queues == 0 || old.depth == 0 || old.depth > maxDepth || l.maxIO < pageSize || l.maxIO > maxIOPages*pageSize:
		return nil, fmt.Errorf("%s: %w: %d queues of %d requests of %d bytes", k.path(id), ErrMismatch, old.queues, old.depth, l.maxIO)
	}
	s := newServer(k, cfg, *old, int64(l.maxIO))
	s.recovered = true
	began := time.Now()
	err = s.launch(ctx, func() error { return beginRecovery(ctx, k, id) })
	if err == nil {
		err = k.endRecovery(id, os.Getpid())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("going on with %s: %w", k.path(id), err), s.abandon())
	}
	s.log.Info("going on with the block device that waited", "device", s.Path(), "queues", len(s.queues), "took", time.Since(began))
	return s, nil
}

// beginRecovery makes the queues anew. errBegun is how the driver says that an
// earlier recovery did not get to a queue: its preparations are as good as ours.
func beginRecovery(ctx context.Context, k kernel, id int) error {
	for began := time.Now(); ; {
		err := k.startRecovery(id)
		switch {
		case errors.Is(err, errBegun):
			return nil
		case !errors.Is(err, errNotYet) || time.Since(began) > gonePatience:
			return err
		}
		if err := sleep(ctx, statePoll); err != nil {
			return err
		}
	}
}
