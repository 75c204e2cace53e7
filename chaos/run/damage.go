package run

import (
	"context"
	"errors"
	"math/rand/v2"

	"dmps/chaos/badmem"
	"dmps/chaos/plan"
	"dmps/raid"
)

// damage does to a server's memory what a fault says.
func damage(a badmem.Arena, f plan.Fault, g raid.Geometry, r *rand.Rand) (mend func(context.Context) error, err error) {
	skip := func(err error) error {
		if errors.Is(err, badmem.ErrUnable) {
			return skipped("%v", err)
		}
		return err
	}
	switch f.Kind {
	case plan.Zero:
		return nil, skip(a.Zero())
	case plan.Swap:
		return nil, skip(a.Swap(g, f.Count, r))
	case plan.Rewind:
		saved, err := a.Save()
		if err != nil {
			return nil, skip(err)
		}
		// Nothing else ends or starts the server meanwhile: a plan breaks a role once at a time.
		return func(context.Context) error { return a.Put(saved) }, nil
	}
	return nil, skip(a.Flip(f.Count, r))
}
