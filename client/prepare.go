package client

import (
	"context"
	"errors"
	"fmt"

	"dmps/raid"
)

// Prepared is a volume's client before it holds the lease: it has its memory, and
// no server knows of it. Use Open or Close, once.
type Prepared struct{ v *Volume }

// Prepare does all of opening a volume that this machine alone can refuse: it maps and
// locks the arena, makes the tables, and registers the memory with the transport. Do it
// before the lease is asked for. Each lease has an epoch of its own, of which there are
// not endlessly many, and which servers may have seen: it cannot be given back.
//
// Of cfg.Layout the shape counts; it may be older than the lease. cfg.Lease is not used.
func Prepare(cfg Config) (*Prepared, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	v, err := newVolume(cfg)
	if err != nil {
		return nil, fmt.Errorf("opening volume %s: %w", cfg.Layout.Name, err)
	}
	if err := v.register(); err != nil {
		v.abandon(err)
		return nil, fmt.Errorf("opening volume %s: %w", cfg.Layout.Name, err)
	}
	v.makeReady()
	return &Prepared{v}, nil
}

// Open opens the volume under a lease and the layout that came with it, as the
// function Open does. When it fails the Prepared is closed.
func (p *Prepared) Open(ctx context.Context, l *raid.Layout, lease Lease) (*Volume, error) {
	v := p.v
	err := v.take(l, lease)
	if err == nil {
		err = v.open(ctx)
	}
	if err != nil {
		v.abandon(err)
		return nil, fmt.Errorf("opening volume %s: %w", v.cfg.Layout.Name, err)
	}
	return v, nil
}

// Close gives the memory back, of a client that got no lease.
func (p *Prepared) Close() { p.v.abandon(ErrClosed) }

// take gives a prepared volume the layout that it is opened with.
func (v *Volume) take(l *raid.Layout, lease Lease) error {
	if err := l.Validate(); err != nil {
		return err
	}
	if was := v.cfg.Layout; shapeOf(l) != shapeOf(was) {
		return errors.New("it was deleted and made anew while this client began: try again")
	}
	v.cfg.Layout, v.cfg.Lease, v.layout = l, lease, l
	v.log = v.cfg.Logger.With("volume", l.Name, "epoch", uint64(l.Epoch))
	v.mu.version, v.mu.unknown = l.Version, l.Unknown
	if v.mu.log == nil {
		v.mu.seq = raid.FirstSeq(l.Epoch)
	}
	return nil
}

// shape is what the memory and the tables of a client are made for. It is the same in
// all layouts of a volume.
type shape struct {
	volume  raid.VolumeID
	cluster string
	kind    raid.LayoutKind
	log     raid.LogConfig
}

func shapeOf(l *raid.Layout) shape {
	return shape{volume: l.Volume, cluster: l.Cluster, kind: l.Kind, log: raid.ConfigOf(l)}
}

// newVolume makes a volume with its arena and an empty map. Nobody knows of it yet.
func newVolume(cfg Config) (*Volume, error) {
	l := cfg.Layout
	v := &Volume{
		cfg: cfg, layout: l, geo: l.Geometry, size: int64(l.Pages) * raid.PageSize,
		log:         cfg.Logger.With("volume", l.Name),
		wake:        make(chan struct{}, 1),
		ended:       make(chan struct{}),
		worse:       make(chan struct{}, 1),
		urgent:      make(chan struct{}, 1),
		rebuildBell: make(chan struct{}, 1),
		guardBell:   make(chan struct{}, 1),
		eraseBell:   make(chan struct{}, 1),
	}
	v.mu.heal.mode, v.mu.heal.rate = cfg.RebuildGuard, max(cfg.RebuildRate, 0)
	v.mu.heal.applyTo(&v.pace)
	v.mu.scrubbed, v.scrubPatience = cfg.LastScrub, scrubPatience
	v.afters.New = func() any { return &after{free: make([]*Buf, 0, 1024), done: make([]*Op, 0, 256)} }
	v.xfers.done = v.done
	v.hooks.Store(&[]*hook{})
	v.peers.Store(&[]*peer{})
	v.granted.read, v.granted.edges, v.granted.trim = v.readGranted, v.edgesGranted, v.trimGranted
	var err error
	if v.coder, err = raid.NewCoder(v.geo); err != nil {
		return nil, err
	}
	if l.Kind == raid.LayoutLog {
		v.mu.log, err = raid.NewLog(raid.ConfigOf(l))
		if err == nil && cfg.Meta != nil {
			v.mu.log.GuardThin()
		}
	} else {
		v.inplace, err = raid.NewInPlace(l)
		v.mu.groupQ = make([]groupQueue, len(l.Groups))
	}
	if err != nil {
		return nil, err
	}
	if err := v.makeArena(); err != nil {
		return nil, err
	}
	v.run, v.cancel = context.WithCancel(context.Background())
	return v, nil
}
