package ublk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"dmps/internal/blockdev"
)

// Server serves one client.Device as one block device.
type Server struct {
	k         kernel
	log       *slog.Logger
	id        int
	file      file // the character device
	queues    []*queue
	recovered bool

	failed chan struct{} // closed when a queue ended with an error
	ended  chan struct{} // closed when all queues ended

	claimed blockdev.Reservation

	mu struct {
		sync.Mutex
		err  error // the first of a queue
		live int   // queues that have not ended
		bye  bool  // Stop or Leave was called

		stopping bool // the device is being taken away
	}
}

var errStopped = errors.New("the device was stopped by somebody else")

// Start makes a block device of cfg.Device and serves it; or, when the kernel
// has the device of this volume waiting for its server, goes on with that one.
// Whoever calls it must hold the volume's lease, so that nobody else serves it.
//
// Errors: ErrUnsupported (use NBD), ErrTaken, ErrServed, ErrElsewhere,
// ErrMismatch, and what the kernel says. A device that waits is never deleted.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	d, err := openUsable()
	if err != nil {
		return nil, err
	}
	s, err := start(ctx, d, cfg)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return s, nil
}

func start(ctx context.Context, k kernel, cfg Config) (*Server, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	have, err := supported(k)
	if err != nil {
		return nil, err
	}
	old, err := find(ctx, k, &cfg)
	if err != nil {
		return nil, err
	}
	if old != nil {
		return resume(ctx, k, &cfg, old)
	}
	return create(ctx, k, &cfg, have)
}

// supported asks the driver for what this package needs of it, and returns all
// that it has.
func supported(k kernel) (have uint64, err error) {
	have, err = k.features()
	if err == nil && have&wanted != wanted {
		err = fmt.Errorf("%w: the driver has features %#x, %#x are needed (Linux 6.5 or later)", ErrUnsupported, have, uint64(wanted))
	}
	return have, err
}

// create adds a new device, to a driver with these features.
func create(ctx context.Context, k kernel, cfg *Config, have uint64) (*Server, error) {
	ask := devInfo{
		queues: uint16(cfg.Queues), depth: uint16(cfg.Depth), maxIO: uint32(cfg.MaxIO), id: uint32(cfg.ID),
		pid: int32(os.Getpid()), flags: wanted | have&featNoPartScan, tag: Tag(cfg.Identity),
	}
	got, err := k.add(ask)
	if err != nil {
		return nil, err
	}
	s, err := setUp(ctx, k, cfg, got)
	if err != nil {
		return nil, errors.Join(err, k.remove(int(got.id)))
	}
	if err := k.unthrottle(ctx, int(got.id)); err != nil {
		s.log.Warn("page-outs may be held back while page-ins take long", "device", s.Path(), "err", err)
	}
	s.log.Info("block device is there", "device", s.Path(), "queues", len(s.queues), "depth", got.depth)
	return s, nil
}

func setUp(ctx context.Context, k kernel, cfg *Config, got devInfo) (*Server, error) {
	id := int(got.id)
	if got.flags&(wanted|unwanted) != wanted {
		return nil, fmt.Errorf("ublk device %d: %w: it has flags %#x, not %#x", id, ErrUnsupported, got.flags, uint64(wanted))
	}
	if err := k.setLimits(id, limits{size: cfg.Device.Size(), maxIO: uint32(cfg.MaxIO), maxDiscard: maxDiscard}); err != nil {
		return nil, err
	}
	s := newServer(k, cfg, got, int64(cfg.MaxIO))
	err := s.launch(ctx, func() error { return nil })
	if err == nil {
		err = k.start(id, os.Getpid())
	}
	if err != nil {
		return nil, errors.Join(err, s.abandon())
	}
	return s, nil
}

func newServer(k kernel, cfg *Config, got devInfo, maxIO int64) *Server {
	s := &Server{
		k: k, id: int(got.id), log: cfg.Log.With("ublk", got.id),
		failed: make(chan struct{}), ended: make(chan struct{}),
	}
	for i := range int(got.queues) {
		s.queues = append(s.queues, newQueue(i, int(got.depth), cfg.Device, maxIO))
	}
	s.mu.live = len(s.queues)
	return s
}

// launch starts the queues, calls before when each has its ring, and returns
// when all have fetched all their tags.
func (s *Server) launch(ctx context.Context, before func() error) error {
	st := newStarting(len(s.queues))
	for _, q := range s.queues {
		go func() { s.over(q.serve(s.k, st)) }() // joined by way of s.ended
	}
	err := s.await(ctx, len(s.queues), st.ports)
	if err == nil {
		err = before()
	}
	if err == nil {
		s.file, err = s.k.open(s.id)
	}
	if err != nil {
		st.open(nil)
		return err
	}
	st.open(s.file)
	return s.await(ctx, len(s.queues), st.fetches)
}

// over notes that a queue has ended. The device cannot do without it: the
// others leave, and what the kernel has not been answered waits for the next
// server.
func (s *Server) over(err error) {
	s.mu.Lock()
	s.mu.live--
	last := s.mu.live == 0
	if err == nil && last && !s.mu.bye && s.mu.err == nil {
		err = errStopped
	}
	first := err != nil && s.mu.err == nil
	if first {
		s.mu.err = err
	}
	s.mu.Unlock()
	if first {
		s.log.Error("serving has ended", "error", err)
		close(s.failed)
		s.leaveAll()
	}
	if last {
		close(s.ended)
	}
}

func (s *Server) leaveAll() {
	for _, q := range s.queues {
		q.leave.Store(true)
		q.done.rouse(q)
	}
}

// ID is the N of /dev/ublkbN.
func (s *Server) ID() int { return s.id }

// Path is the block device.
func (s *Server) Path() string { return s.k.path(s.id) }

// Recovered reports whether the device was there before, with requests that
// may have waited.
func (s *Server) Recovered() bool { return s.recovered }

// Failed is closed when a queue has ended by itself; Err says why. Leave then.
func (s *Server) Failed() <-chan struct{} { return s.failed }

// Err is why a queue has ended by itself, or nil.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.err
}

func (s *Server) goodbye() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.bye = true
}

// Claim takes the block device from everybody else, until Stop or Leave: nobody
// swaps to it, mounts it, builds on it, or has it open, nor can begin to swap or
// mount. Otherwise it fails with blockdev.ErrInUse. A device whose pages do not come
// within ctx is not claimed.
func (s *Server) Claim(ctx context.Context) error {
	return s.claimed.Reserve(func() (func() error, error) { return s.k.claim(ctx, s.id) })
}

// Stopping reports whether Stop got as far as to take the device away.
func (s *Server) Stopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.stopping
}

// Stop answers what is in flight, and removes the block device. It fails with
// blockdev.ErrInUse, and changes nothing, when the device is swapped to, mounted or open.
// When ctx ends first the removal goes on without a witness.
func (s *Server) Stop(ctx context.Context) (err error) {
	// Of a device that somebody else has stopped there is nothing to claim any more.
	stopped, release := errors.Is(s.Err(), errStopped), s.claimed.Release
	if !stopped {
		if release, err = s.claimed.Take(func() (func() error, error) { return s.k.claim(ctx, s.id) }); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.mu.bye, s.mu.stopping = true, true
	s.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- s.stop(stopped, release) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		return fmt.Errorf("stopping %s: %w", s.Path(), ctx.Err())
	}
	if err == nil {
		s.log.Info("block device is gone", "device", s.Path())
	}
	return err
}

// stop stops the device, unless it is stopped already, and deletes it. The driver deletes it
// when the last of those who have it open has closed it.
func (s *Server) stop(stopped bool, release func() error) error {
	if !stopped {
		if err := s.k.stop(s.id); err != nil {
			s.mu.Lock()
			s.mu.bye, s.mu.stopping = false, false // it is there as before, and is served
			s.mu.Unlock()
			return errors.Join(err, release())
		}
	}
	<-s.ended
	err := errors.Join(s.file.Close(), release())
	return errors.Join(err, s.k.remove(s.id), s.close())
}

// Leave ends this server and leaves the block device to the next one. Until
// then its requests wait. What the Device has is given the time of ctx to end
// well; requests that end with an error, or not at all, the kernel keeps and
// asks the next server. After an error close the Device and end the process.
func (s *Server) Leave(ctx context.Context) (err error) {
	s.goodbye()
	s.leaveAll()
	defer func() { err = errors.Join(err, s.claimed.Release()) }()
	select {
	case <-s.ended:
	case <-ctx.Done():
		return fmt.Errorf("leaving %s with requests in flight, which wait for the next client: %w", s.Path(), ctx.Err())
	}
	s.log.Info("block device is left: its requests wait for the next client", "device", s.Path())
	return errors.Join(s.file.Close(), s.close())
}

// abandon ends the queues of a device that did not come to be served.
func (s *Server) abandon() error {
	s.goodbye()
	s.leaveAll()
	<-s.ended
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

func (s *Server) close() error {
	if c, ok := s.k.(interface{ Close() error }); ok {
		return c.Close()
	}
	return nil
}
