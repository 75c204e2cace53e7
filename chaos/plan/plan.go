package plan

import (
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
	Steps []Step // in order of time
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
