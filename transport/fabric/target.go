//go:build fabric && cgo

package fabric

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"dmps/transport"
)

// target is the server's end of a session's one-sided transfers: an endpoint in
// a domain of its own, so that the session's keys open nothing to others, and a
// goroutine that makes progress for the providers that need a CPU for it.
type target struct {
	d     *domain
	ep    *endpoint
	mem   []byte // a page, for the probe
	probe *grant
	nonce uint64
	spin  time.Duration

	grants map[uint64]*exposed // by chunk; of the session's goroutine

	mu struct {
		sync.Mutex
		keyed  bool  // the client has asked for a chunk's keys
		failed error // why the endpoint is no use; before keyed
	}
	ending atomic.Bool
	over   chan struct{} // closed when run has returned
	busy   sync.Mutex    // held while the endpoint makes progress
	frozen atomic.Int32  // tests stall a server
}

// exposed is a chunk that the client has the keys of.
type exposed struct{ pages, headers *grant }

func newTarget(a *attach, spin time.Duration) (*target, error) {
	t := &target{spin: spin, grants: make(map[uint64]*exposed), over: make(chan struct{}), nonce: random()}
	err := t.open(a)
	if err != nil {
		close(t.over) // run never ran
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

func (t *target) open(a *attach) (err error) {
	if t.d, err = openDomain(a.provider, a.host); err != nil {
		return err
	}
	if t.ep, err = t.d.endpoint(); err != nil {
		return err
	}
	// A card's descriptor stays readable after an event until the end goes to sleep,
	// whatever it looks at: an end that took that for work looked for ever.
	if t.d.caps.card {
		t.ep.atMost = restEvery
	} else {
		t.ep.serves = true
	}
	if a.bell != "" {
		b, err := openBell(a.bell)
		if err != nil {
			return err
		}
		t.ep.ring(b, true)
	} else if !t.ep.sleeps() {
		return errors.New("the provider cannot sleep, and the client has no bell for it")
	}
	if a.provider == "shm" {
		if err := checkRegion(a.addr); err != nil {
			return err
		}
	}
	if err := t.ep.connect(a.addr); err != nil {
		return err
	}
	if t.mem, err = mapMemory(transport.PageSize); err != nil {
		return err
	}
	le.PutUint64(t.mem, t.nonce)
	t.probe, err = t.d.grant(t.mem, false, t.newKey())
	return err
}

// newKey is a key for a provider that lets one choose: one that no session had.
func (t *target) newKey() uint64 { return random() >> 1 }

// expose registers a chunk, once.
func (t *target) expose(chunk uint64, x transport.Exposed) (*exposed, error) {
	t.mu.Lock()
	t.mu.keyed = true
	err := t.mu.failed
	t.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("the endpoint has failed: %w", err)
	}
	if g := t.grants[chunk]; g != nil {
		return g, nil
	}
	pages, err := t.d.grant(x.Pages, !x.ReadOnly, t.newKey())
	if err != nil {
		return nil, err
	}
	headers, err := t.d.grant(x.Headers, !x.ReadOnly, t.newKey())
	if err != nil {
		return nil, errors.Join(err, pages.close())
	}
	g := &exposed{pages, headers}
	t.grants[chunk] = g
	return g, nil
}

// withdraw ends the keys of a chunk: no transfer begins there any more. The
// client has none in flight (conn.unmap); one that had against the rules could
// still see the rest of it land with a provider in software, up to 128 KiB.
func (t *target) withdraw(chunk uint64) error {
	g := t.grants[chunk]
	if g == nil {
		return nil
	}
	delete(t.grants, chunk)
	return g.close()
}

func (g *exposed) close() error { return errors.Join(g.pages.close(), g.headers.close()) }

// run makes progress until the target is closed.
func (t *target) run(stop func(error)) {
	defer close(t.over)
	for !t.ending.Load() {
		if t.frozen.Load() > 0 {
			time.Sleep(time.Millisecond)
			continue
		}
		t.busy.Lock()
		n, err := t.ep.poll(t.spin, forever, false)
		for i := 0; i < n && err == nil; i++ {
			_, err = t.ep.end(i) // it has no operations of its own
		}
		t.busy.Unlock()
		if err != nil && !t.ending.Load() {
			if t.fail(err) {
				stop(fmt.Errorf("%w: %w", transport.ErrClosed, err))
			}
			return
		}
	}
}

// fail reports whether the session ends with its endpoint. One without keys has moved
// nothing: its client may have given it up, for another provider.
func (t *target) fail(err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.mu.keyed {
		t.mu.failed = err
	}
	return t.mu.keyed
}

// hasKeys reports whether the client has asked for the keys of a chunk.
func (t *target) hasKeys() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.keyed
}

// stall returns when the endpoint makes no progress any more, until thaw.
func (t *target) stall() {
	t.frozen.Add(1)
	t.ep.wake()
	t.busy.Lock()
	t.busy.Unlock() //lint:ignore SA2001 waits for the poll that runs
}

func (t *target) thaw() { t.frozen.Add(-1) }

// close ends all transfers: when it returns none can land any more, and the
// keys open nothing.
func (t *target) close() error {
	if t.ep != nil {
		t.ending.Store(true)
		t.ep.wake()
	}
	<-t.over
	var errs []error
	if t.ep != nil {
		errs = append(errs, t.ep.close())
	}
	for _, g := range t.grants {
		errs = append(errs, g.close())
	}
	if t.probe != nil {
		errs = append(errs, t.probe.close())
	}
	if t.d != nil {
		errs = append(errs, t.d.close())
	}
	unmapMemory(t.mem)
	return errors.Join(errs...)
}
