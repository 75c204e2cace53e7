package transport

import "errors"

// Status is the outcome of a request or handshake on the wire.
type Status uint8

// Statuses. Their numbers are part of the protocol and never change.
const (
	StatusOK Status = iota
	StatusClosed
	StatusStaleEpoch
	StatusIncarnation
	StatusNoChunk
	StatusNoMemory
	StatusChecksum
	StatusRefused
	statusEnd
)

var statusErrs = [statusEnd]error{
	StatusClosed:      ErrClosed,
	StatusStaleEpoch:  ErrStaleEpoch,
	StatusIncarnation: ErrIncarnation,
	StatusNoChunk:     ErrNoChunk,
	StatusNoMemory:    ErrNoMemory,
	StatusChecksum:    ErrChecksum,
	StatusRefused:     ErrRefused,
}

// Valid reports whether s is a status of this version.
func (s Status) Valid() bool { return s < statusEnd }

// Err is the sentinel that s stands for, nil for StatusOK.
func (s Status) Err() error {
	if !s.Valid() {
		return ErrRefused
	}
	return statusErrs[s]
}

// StatusOf is the status that a Backend's error travels as. An error without
// sentinel becomes StatusRefused: the peer must not retry what is not
// understood.
func StatusOf(err error) Status {
	if err == nil {
		return StatusOK
	}
	for s := StatusOK + 1; s < statusEnd; s++ {
		if errors.Is(err, statusErrs[s]) {
			return s
		}
	}
	return StatusRefused
}

// ErrFenced is what the requests of a session complete with that was ended by
// a newer lease: their outcome is unknown (it wraps ErrClosed) and there is no
// point in coming back (it wraps ErrStaleEpoch).
var ErrFenced error = fencedError{}

type fencedError struct{}

func (fencedError) Error() string   { return "transport: session ended by a newer lease" }
func (fencedError) Unwrap() []error { return []error{ErrClosed, ErrStaleEpoch} }
