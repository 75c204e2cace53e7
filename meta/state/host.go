package state

import "fmt"

// Host is a machine in one of its boots. What is unknown is empty.
type Host struct {
	Machine string `json:"machine,omitempty"`
	Boot    string `json:"boot,omitempty"`
}

// is reports whether two hosts may be the same boot of the same machine. What is not
// known of one of them does not tell them apart.
func (h Host) is(o Host) bool {
	return sameOrUnknown(h.Machine, o.Machine) && sameOrUnknown(h.Boot, o.Boot)
}

func sameOrUnknown(a, b string) bool { return a == "" || b == "" || a == b }

func (h Host) String() string {
	if h == (Host{}) {
		return "unknown machine"
	}
	return fmt.Sprintf("machine %s in boot %s", orUnknown(h.Machine), orUnknown(h.Boot))
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// valid bounds what a caller says of its host.
func (h Host) valid() bool { return len(h.Machine) <= 64 && len(h.Boot) <= 64 }
