package meta

import (
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"dmps/meta/metapb"
	"dmps/meta/state"
	"dmps/meta/store"
)

// refused makes an API error that callers decide by.
func refused(code metapb.Reason_Code, format string, a ...any) *connect.Error {
	return withReason(fmt.Errorf(format, a...), &metapb.Reason{Code: code})
}

func withReason(err error, r *metapb.Reason) *connect.Error {
	e := connect.NewError(connectCodes[r.Code], err)
	if d, err := connect.NewErrorDetail(r); err == nil {
		e.AddDetail(d)
	}
	return e
}

var connectCodes = map[metapb.Reason_Code]connect.Code{
	metapb.Reason_CODE_NO_QUORUM:       connect.CodeUnavailable,
	metapb.Reason_CODE_NOT_FOUND:       connect.CodeNotFound,
	metapb.Reason_CODE_NO_VOLUME:       connect.CodeNotFound,
	metapb.Reason_CODE_EXISTS:          connect.CodeAlreadyExists,
	metapb.Reason_CODE_IN_USE:          connect.CodeFailedPrecondition,
	metapb.Reason_CODE_FENCED:          connect.CodeFailedPrecondition,
	metapb.Reason_CODE_NO_SPACE:        connect.CodeResourceExhausted,
	metapb.Reason_CODE_TOO_FEW_DOMAINS: connect.CodeFailedPrecondition,
	metapb.Reason_CODE_FOREIGN_CLUSTER: connect.CodePermissionDenied,
	metapb.Reason_CODE_INVALID:         connect.CodeInvalidArgument,
	metapb.Reason_CODE_ID_IN_USE:       connect.CodeFailedPrecondition,
	metapb.Reason_CODE_HOLDS_CHUNKS:    connect.CodeFailedPrecondition,
	metapb.Reason_CODE_UNKNOWN_OUTCOME: connect.CodeDeadlineExceeded,
	metapb.Reason_CODE_ID_AWAITED:      connect.CodeFailedPrecondition,
	metapb.Reason_CODE_LEVEL:           connect.CodeFailedPrecondition,
	metapb.Reason_CODE_NO_MAJORITY:     connect.CodeFailedPrecondition,
}

var refusalCodes = map[state.Code]metapb.Reason_Code{
	state.Invalid:        metapb.Reason_CODE_INVALID,
	state.NotFound:       metapb.Reason_CODE_NOT_FOUND,
	state.NoVolume:       metapb.Reason_CODE_NO_VOLUME,
	state.Exists:         metapb.Reason_CODE_EXISTS,
	state.InUse:          metapb.Reason_CODE_IN_USE,
	state.Fenced:         metapb.Reason_CODE_FENCED,
	state.NoSpace:        metapb.Reason_CODE_NO_SPACE,
	state.TooFewDomains:  metapb.Reason_CODE_TOO_FEW_DOMAINS,
	state.ForeignCluster: metapb.Reason_CODE_FOREIGN_CLUSTER,
	state.IDInUse:        metapb.Reason_CODE_ID_IN_USE,
	state.IDAwaited:      metapb.Reason_CODE_ID_AWAITED,
	state.HoldsChunks:    metapb.Reason_CODE_HOLDS_CHUNKS,
	state.LevelTooLow:    metapb.Reason_CODE_LEVEL,
	state.LevelUnknown:   metapb.Reason_CODE_LEVEL,
}

// apiError gives what the API answers for an error of this package.
func apiError(err error) error {
	var refusal *state.Refusal
	var ce *connect.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ce):
		return err
	case errors.As(err, &refusal):
		return withReason(err, &metapb.Reason{
			Code: refusalCodes[refusal.Code], Holder: refusal.Holder, AdminUrl: refusal.Admin, MissingBytes: refusal.Missing,
		})
	case errors.Is(err, errNoQuorum), errors.Is(err, store.ErrStopped), errors.Is(err, store.ErrFull):
		return withReason(err, &metapb.Reason{Code: metapb.Reason_CODE_NO_QUORUM})
	case errors.Is(err, errUnknownOutcome):
		return withReason(err, &metapb.Reason{Code: metapb.Reason_CODE_UNKNOWN_OUTCOME})
	}
	return connect.NewError(connect.CodeInternal, err)
}

// inUseFor completes a refusal with what only the leader knows: how the lease
// stands. What may be done by force is what force says.
func inUseFor(refusal *state.Refusal, l leaseStanding, force string) error {
	err := fmt.Errorf("%w; its lease runs out in %v unless it is renewed: detach it there, wait, or %s", refusal, l.left.Round(100*time.Millisecond), force)
	if l.pages {
		err = fmt.Errorf("%w; its lease has run out, but memory servers have sessions of that client: it pages, and merely does not reach the metadata. Detach it there. If it is really dead, or what it has is to be lost, %s", refusal, force)
	}
	return withReason(err, &metapb.Reason{
		Code: metapb.Reason_CODE_IN_USE, Holder: refusal.Holder, AdminUrl: refusal.Admin, RemainingMs: l.left.Milliseconds(),
	})
}

// reasonCode takes the reason out of another node's error.
func reasonCode(err error) metapb.Reason_Code {
	var ce *connect.Error
	if errors.As(err, &ce) {
		for _, d := range ce.Details() {
			if v, err := d.Value(); err == nil {
				if r, ok := v.(*metapb.Reason); ok {
					return r.Code
				}
			}
		}
	}
	return metapb.Reason_CODE_UNSPECIFIED
}
