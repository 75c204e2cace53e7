package history

import (
	"fmt"
	"time"
)

// Kind of an operation.
type Kind uint8

// Kinds. A trim is a write of Zeros.
const (
	OpRead Kind = iota
	OpWrite
	OpTrim
)

func (k Kind) String() string { return [...]string{"read", "write", "trim"}[k] }

// Outcome is how an operation ended.
type Outcome uint8

// Outcomes. A failed write was answered with an error: it may be there all the
// same, as with an unknown one.
const (
	OK      Outcome = iota
	Failed          // answered with an error
	Unknown         // never answered: the connection broke
)

func (o Outcome) String() string { return [...]string{"ok", "failed", "unknown"}[o] }

// Op is what one request did to one page. Times are since the start of the run.
type Op struct {
	Page    uint32
	Client  uint16 // worker
	Kind    Kind
	Outcome Outcome
	Value   Value // read: what came back; write: what was written
	Call    time.Duration
	Return  time.Duration
}

// Changes reports whether the op is a write or a trim.
func (o Op) Changes() bool { return o.Kind != OpRead }

func (o Op) String() string {
	s := fmt.Sprintf("%13v .. %-13v  client %-3d %-5v %v", o.Call.Round(time.Microsecond), o.Return.Round(time.Microsecond), o.Client, o.Kind, o.Value)
	if o.Outcome != OK {
		s += "  (" + o.Outcome.String() + ")"
	}
	return s
}
