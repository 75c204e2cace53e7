package blockdev

import "sync"

// Reservation is a claim on a device that is taken ahead of its use, so that nobody
// begins to use the device meanwhile. The zero value holds none.
type Reservation struct {
	mu      sync.Mutex
	release func() error
}

// A claimer takes a claim and returns how to give it back.
type claimer func() (release func() error, err error)

// Reserve takes the claim, unless it is held already.
func (r *Reservation) Reserve(claim claimer) error {
	r.mu.Lock()
	held := r.release != nil
	r.mu.Unlock()
	if held {
		return nil
	}
	release, err := claim() // without the lock: it may wait for the device
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.release = release
	return nil
}

// Take hands over the claim that is held, or takes it now.
func (r *Reservation) Take(claim claimer) (release func() error, err error) {
	if release := r.taken(); release != nil {
		return release, nil
	}
	return claim()
}

// Release gives back the claim, if one is held.
func (r *Reservation) Release() error {
	if release := r.taken(); release != nil {
		return release()
	}
	return nil
}

func (r *Reservation) taken() func() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	release := r.release
	r.release = nil
	return release
}
