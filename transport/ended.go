package transport

import (
	"errors"
	"fmt"
	"time"
)

// Ended is cause as Conn.Err gives it: ErrClosed, alone or wrapped beside why.
func Ended(cause error) error {
	switch {
	case cause == nil:
		return ErrClosed
	case errors.Is(cause, ErrClosed):
		return cause
	}
	return fmt.Errorf("%w: %w", ErrClosed, cause)
}

// Outcome is what a request completes with that was in flight when its session
// ended for cause; r is nil for what is no Request.
func Outcome(r *Request, cause error, now time.Time) error {
	switch {
	case errors.Is(cause, ErrDeadline):
		if r != nil && !r.Deadline.IsZero() && !r.Deadline.After(now) {
			return ErrDeadline
		}
	case errors.Is(cause, ErrStaleEpoch):
		return ErrFenced
	}
	return ErrClosed
}
