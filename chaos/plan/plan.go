package plan

import (
	"fmt"
	"time"

	"dmps/raid"
)

// Plan is a run: a cluster and what happens to it.
type Plan struct {
	Seed       uint64        // of the load, and of New; 0 is a seed like any other
	Redundancy raid.Geometry // of the volume
	Servers    int           // memory servers
	Meta       int           // metadata nodes: 1, 3 or 5
	Duration   time.Duration // of the load, waits for heals not counted
	// Bear is how many servers may be touched between two heals. More than
	// Redundancy.M loses data, and then requests may fail.
	Bear  int
	Load  Load
	Steps []Step // in order of time
}

// Load is what is asked of the volume meanwhile.
type Load uint8

// Loads. Where nobody but one worker asks, and for one page, every row is written for
// one page: those need the redundancy most when servers are out.
const (
	Mixed  Load = iota // eight workers, 1 to 32 pages
	Single             // one worker, one page: writes, trims, writes of zeros, reads
	loads              // how many there are
)

var loadNames = [loads]string{Mixed: "mixed", Single: "single"}

func (l Load) String() string {
	if l >= loads {
		return fmt.Sprintf("load(%d)", uint8(l))
	}
	return loadNames[l]
}

// ParseLoad is the opposite of Load.String.
func ParseLoad(s string) (Load, error) {
	for l := range loads {
		if loadNames[l] == s {
			return l, nil
		}
	}
	return 0, fmt.Errorf("load %q is none of %v", s, loadNames)
}

// Step is a fault at an offset. While a heal is waited for, the plan's time
// stands still.
type Step struct {
	At time.Duration
	Fault
}

// String is a line of a plan.
func (s Step) String() string { return "at " + s.At.String() + " " + s.Fault.String() }

// End is when the fault is over.
func (s Step) End() time.Duration { return s.At + s.For }

// Roles lists the cluster's processes: metadata nodes, servers, the client.
func (p *Plan) Roles() []Role {
	var all []Role
	for i := range p.Meta {
		all = append(all, Meta(i+1))
	}
	for i := range p.Servers {
		all = append(all, Server(i+1))
	}
	return append(all, Client)
}
