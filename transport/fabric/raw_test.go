//go:build fabric && cgo

package fabric

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"dmps/transport"
)

// RawBytes is the memory of a raw end: what the largest transfer takes.
const RawBytes = 4 << 20

// Raw is one end of libfabric alone, with this package's settings of the
// provider: no requests, no headers, no sleep. Both ends look without a pause.
type Raw struct {
	d    *domain
	ep   *endpoint
	mem  []byte
	g    *grant // of the target
	peer key    // of the other one
	ring ring
	out  int
	turn int
}

// RawAddress is what the two ends tell each other.
type RawAddress struct {
	Endpoint  []byte
	Addr, Key uint64
}

// NewRaw opens an end at an address of this machine; the target lets the other one
// read and write its memory.
func NewRaw(provider, host string, target bool) (*Raw, RawAddress, error) {
	var a RawAddress
	r := new(Raw)
	fail := func(err error) (*Raw, RawAddress, error) { return nil, a, errors.Join(err, r.Close()) }
	var err error
	if r.d, err = openDomain(provider, host); err != nil {
		return fail(err)
	}
	if r.ep, err = r.d.endpoint(); err != nil {
		return fail(err)
	}
	if r.mem, err = mapMemory(RawBytes); err != nil {
		return fail(err)
	}
	if r.ring, err = newRing(64); err != nil {
		return fail(err)
	}
	if target {
		if r.g, err = r.d.grant(r.mem, true, random()>>1); err != nil {
			return fail(err)
		}
		a.Addr, a.Key = r.g.key.addr, r.g.key.key
	} else if err = r.d.local(r.mem); err != nil {
		return fail(err)
	}
	a.Endpoint, err = r.ep.address()
	if err != nil {
		return fail(err)
	}
	return r, a, nil
}

// Connect sets the other end.
func (r *Raw) Connect(a RawAddress) error {
	r.peer = key{a.Addr, a.Key}
	return r.ep.connect(a.Endpoint)
}

// Serve makes progress until in ends. A card needs it for the connection only.
func (r *Raw) Serve(in io.Reader) error {
	var over atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, in)
		over.Store(true)
	}()
	for !over.Load() {
		var err error
		if r.d.caps.card {
			_, err = r.ep.poll(0, lookEvery, false)
		} else {
			_, err = r.ep.once()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Start posts one transfer of n bytes: alone of the same memory each time, beside
// others of the next, as with requests that are in flight together.
func (r *Raw) Start(op transport.Op, n int) error {
	kind, flags := opRead, uint32(0)
	if op == transport.OpWrite {
		kind, flags = opWrite, delivered
	}
	at := 0
	if r.out > 0 {
		r.turn++
		at = r.turn * n % (len(r.mem) / n * n)
	}
	o := r.ring.add()
	o.set(kind, 0, flags, r.peer, uint64(at))
	o.piece(r.mem[at : at+n])
	r.out++
	return r.post()
}

func (r *Raw) post() error {
	_, err := r.ring.post(r.ep, r.d.caps.inFlight)
	return err
}

// End looks until one transfer or more have ended.
func (r *Raw) End() error {
	for t0 := time.Now(); ; {
		n, err := r.ep.once()
		for i := 0; i < n && err == nil; i++ {
			_, err = r.ep.end(i)
		}
		r.out -= n
		if err != nil || n > 0 {
			return errors.Join(err, r.post())
		}
		if r.ring.waiting() > 0 { // not all was taken
			if err := r.post(); err != nil {
				return err
			}
			if time.Since(t0) > 10*time.Second {
				return fmt.Errorf("%d transfers have not begun in 10 s", r.ring.waiting())
			}
		}
	}
}

// InFlight is how many transfers have not ended.
func (r *Raw) InFlight() int { return r.out }

// Close ends it.
func (r *Raw) Close() error {
	var errs []error
	if r.ep != nil {
		errs = append(errs, r.ep.close())
	}
	if r.g != nil {
		errs = append(errs, r.g.close())
	}
	r.ring.free()
	if r.d != nil {
		errs = append(errs, r.d.close())
	}
	unmapMemory(r.mem)
	return errors.Join(errs...)
}
