package state

import (
	"fmt"

	"dmps/raid"
)

// Code is the decision that a caller takes on a Refusal.
type Code uint8

const (
	Invalid        Code = iota + 1 // can never be granted
	NotFound                       // no such server or node
	NoVolume                       // no such volume
	Exists                         // the name is taken
	InUse                          // another holder has the lease
	Fenced                         // the caller's lease is over
	NoSpace                        // memory is missing
	TooFewDomains                  // fewer failure domains than members of a group
	ForeignCluster                 // the caller belongs to another cluster
	IDInUse                        // a living server or node has the id
	IDAwaited                      // a server that is not heard, and not given up, has the id
	HoldsChunks                    // the server holds chunks of volumes
	LevelTooLow                    // it needs a higher level of the cluster
	LevelUnknown                   // a node does not know the level
)

// Refusal is a command that was not carried out, and why, in words for people.
// The state did not change.
type Refusal struct {
	Code    Code          `json:"code"`
	Message string        `json:"message"`
	Holder  string        `json:"holder,omitempty"`  // InUse
	Admin   string        `json:"admin,omitempty"`   // InUse: where the holder answers
	Volume  raid.VolumeID `json:"volume,omitempty"`  // InUse
	Missing uint64        `json:"missing,omitempty"` // NoSpace: bytes
}

func (r *Refusal) Error() string { return r.Message }

func refuse(c Code, format string, a ...any) *Refusal {
	return &Refusal{Code: c, Message: fmt.Sprintf(format, a...)}
}
