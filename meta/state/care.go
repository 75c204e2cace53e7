package state

import (
	"fmt"

	"dmps/raid"
)

// Care is the rebuilding of a volume that nobody has attached: a memory server
// takes a lease of its own kind (Lease.Care), fills the members that miss
// something, and gives it back.

// NoCare says why a volume needs no care, or cannot be cared for as it is; the
// empty string: it needs it. That somebody has the lease is no reason: whoever
// asks knows that it has run out.
//
// What is to be done is what a client's rebuild driver does: members that were
// given new chunks, and rows that a member missed. A volume of which a group has
// fewer than K members to be read is left as it is, until they come back.
func (s *State) NoCare(v *Volume) string {
	switch {
	case v.Kind != raid.LayoutLog || v.Geometry.M == 0:
		return "it has no redundancy"
	case v.Epoch >= raid.MaxEpoch-userEpochs:
		return "its last epochs are for clients: copy what it holds to another volume"
	case v.Unopened:
		return "nobody ever opened it"
	}
	is := s.survey(v)
	if is.thin >= 0 {
		return fmt.Sprintf("group %d: %d of the %d members that are needed can be read", is.thin, is.readable, v.Geometry.K)
	}
	// Rows that members missed, as the last client said; one that did not give its
	// lease back may have died before it could. While members are away there are
	// some that nobody can mend.
	filling := is.filling
	if r := v.Report; !is.away && (v.Lease != nil || r != nil && (r.State == Degraded || r.DegradedRows > 0)) {
		filling = true
	}
	if !filling {
		return "all members that are there hold everything"
	}
	return ""
}
