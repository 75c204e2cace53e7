package metaclient

import (
	"dmps/meta/level"
	"dmps/meta/metapb"
)

// Host is the machine that a Client runs on. It goes with registrations and leases, so
// that two machines of one name, or a machine and its clone, are told apart.
type Host struct {
	Machine string // the same for each boot; empty: unknown
	Boot    string // new with each boot; empty: unknown
	Folder  string // of a memory server: the key of its state folder, which no two living processes have; empty: it has none
}

// WithHost says which machine this is.
func WithHost(h Host) Option { return func(c *Client) { c.host = h } }

// Build is a version of the program, and the levels of a cluster that it knows.
type Build = level.Build

// WithVersion says which version this is. It goes with registrations and leases.
func WithVersion(v string) Option { return func(c *Client) { c.build = level.This(v) } }

func buildMessage(b Build) *metapb.Build {
	return &metapb.Build{Version: b.Version, LowestLevel: uint32(b.Lowest), HighestLevel: uint32(b.Highest)}
}

func buildFrom(p *metapb.Build) Build {
	return Build{Version: p.GetVersion(), Lowest: level.Level(p.GetLowestLevel()), Highest: level.Level(p.GetHighestLevel())}
}
