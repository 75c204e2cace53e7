package metaclient

import (
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"dmps/client"
	"dmps/meta/metapb"
)

// Sentinels of refusals, beside those of package client.
var (
	ErrUnreachable    = errors.New("no metadata node answers")                      // check the addresses, try again later
	ErrUnknownOutcome = errors.New("the change may or may not have been made")      // look before doing it again
	ErrExists         = errors.New("name is taken")                                 // choose another
	ErrNotFound       = errors.New("not found")                                     // of servers and nodes; volumes have client.ErrNoVolume
	ErrNoSpace        = errors.New("not enough memory on the servers")              // add servers, or ask for less
	ErrTooFewDomains  = errors.New("fewer failure domains than members in a group") // add servers, or name a finer domain
	ErrForeignCluster = errors.New("belongs to another cluster")                    // wrong address, or an old data folder
	ErrInvalid        = errors.New("request can never be granted")                  // mend the request
	ErrIDInUse        = errors.New("a living server or node has this id")           // choose another id, or stop the other one
	ErrIDAwaited      = errors.New("another server had this id a moment ago")       // wait until it counts as down, or choose another id
	ErrHoldsChunks    = errors.New("the server holds chunks of volumes")            // drain it, or force
	ErrLevel          = errors.New("not all metadata nodes know the level")         // install a version that does
	ErrNoMajority     = errors.New("too few metadata nodes would answer")           // start those that do not answer, or remove them first
)

// InUseError says who holds the lease; it matches client.ErrInUse.
type InUseError struct {
	Message   string
	Holder    string
	AdminURL  string
	Remaining time.Duration
}

func (e *InUseError) Error() string { return e.Message }
func (e *InUseError) Unwrap() error { return client.ErrInUse }

// refusal is a decision of the service: its text, and the sentinel for it.
type refusal struct {
	message string
	kind    error
}

func (e *refusal) Error() string { return e.message }
func (e *refusal) Unwrap() error { return e.kind }

var refusals = map[metapb.Reason_Code]error{
	metapb.Reason_CODE_NO_QUORUM:       client.ErrNoQuorum,
	metapb.Reason_CODE_NOT_FOUND:       ErrNotFound,
	metapb.Reason_CODE_EXISTS:          ErrExists,
	metapb.Reason_CODE_NO_VOLUME:       client.ErrNoVolume,
	metapb.Reason_CODE_FENCED:          client.ErrFenced,
	metapb.Reason_CODE_NO_SPACE:        ErrNoSpace,
	metapb.Reason_CODE_TOO_FEW_DOMAINS: ErrTooFewDomains,
	metapb.Reason_CODE_FOREIGN_CLUSTER: ErrForeignCluster,
	metapb.Reason_CODE_INVALID:         ErrInvalid,
	metapb.Reason_CODE_ID_IN_USE:       ErrIDInUse,
	metapb.Reason_CODE_LEVEL:           ErrLevel,
	metapb.Reason_CODE_HOLDS_CHUNKS:    ErrHoldsChunks,
	metapb.Reason_CODE_UNKNOWN_OUTCOME: ErrUnknownOutcome,
	metapb.Reason_CODE_ID_AWAITED:      ErrIDAwaited,
	metapb.Reason_CODE_NO_MAJORITY:     ErrNoMajority,
}

// reasonOf takes the reason out of a Connect error; nil when it has none,
// which is when it did not come from the service itself.
func reasonOf(err error) *metapb.Reason {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return nil
	}
	for _, d := range ce.Details() {
		v, err := d.Value()
		if err != nil {
			continue // a detail of a newer version
		}
		if r, ok := v.(*metapb.Reason); ok {
			return r
		}
	}
	return nil
}

// decode turns an error of the service into one of this package.
func decode(err error, r *metapb.Reason) error {
	var ce *connect.Error
	message := err.Error()
	if errors.As(err, &ce) {
		message = ce.Message()
	}
	if r.Code == metapb.Reason_CODE_IN_USE {
		return &InUseError{
			Message: message, Holder: r.Holder, AdminURL: r.AdminUrl,
			Remaining: time.Duration(r.RemainingMs) * time.Millisecond,
		}
	}
	kind, ok := refusals[r.Code]
	if !ok {
		return fmt.Errorf("metadata service: %w", err)
	}
	return &refusal{message: message, kind: kind}
}
