package level

import (
	"fmt"
	"strings"
)

// Level numbers what the replicated commands and records of a cluster may hold.
type Level uint32

const (
	// Lowest is the lowest level that this build knows. Nodes of it can be in a
	// cluster of that level, beside older builds.
	Lowest Level = 1
	// Released is the highest level of any released version: it is not changed any more.
	Released Level = 0
)

// Build is a version of the program, and what it knows.
type Build struct {
	Version string `json:"version,omitempty"`
	Lowest  Level  `json:"lowest_level,omitempty"`
	Highest Level  `json:"highest_level,omitempty"`
}

// This is the running program. What Valid does not allow in its version is left out.
func This(version string) Build {
	version = strings.Map(func(r rune) rune {
		if unprintable(r) {
			return -1
		}
		return r
	}, version)
	return Build{Version: version[:min(len(version), maxVersion)], Lowest: Lowest, Highest: Highest}
}

const maxVersion = 64 // bytes

func unprintable(r rune) bool { return r <= ' ' || r > '~' }

// Knows reports whether the build can be in a cluster of a level. One that never said
// what it knows knows the first.
func (b Build) Knows(l Level) bool { return l >= max(b.Lowest, 1) && l <= max(b.Highest, 1) }

// Check refuses a level that the build does not know, with an *UnknownError: of what
// it is, and the version that began with it.
func (b Build) Check(what string, l Level, since string) error {
	if b.Knows(l) {
		return nil
	}
	return &UnknownError{What: what, Level: l, Since: since, Build: b}
}

func (b Build) String() string {
	return fmt.Sprintf("%s knows %s", b.name(), b.Levels())
}

// Levels says which levels the build knows.
func (b Build) Levels() string {
	if max(b.Lowest, 1) == max(b.Highest, 1) {
		return "level " + b.Range()
	}
	return "levels " + b.Range()
}

// Range is their numbers.
func (b Build) Range() string {
	lo, hi := max(b.Lowest, 1), max(b.Highest, 1)
	if lo == hi {
		return fmt.Sprint(lo)
	}
	return fmt.Sprintf("%d to %d", lo, hi)
}

func (b Build) name() string {
	if b.Version == "" {
		return "dmps of an unknown version"
	}
	return "dmps " + b.Version
}

// Valid bounds what others say of themselves: it is kept, and printed.
func (b Build) Valid() bool {
	return len(b.Version) <= maxVersion && !strings.ContainsFunc(b.Version, unprintable)
}

// UnknownError is something of a level that the running program does not know.
type UnknownError struct {
	What  string // that is of the level
	Level Level
	Since string // version that the cluster was raised with; empty: unknown
	Build Build  // the running program
}

// Error says what to install.
func (e *UnknownError) Error() string {
	program := "this program"
	if e.Build.Version != "" {
		program += " (dmps " + e.Build.Version + ")"
	}
	program += " knows " + e.Build.Levels()
	if e.Level < e.Build.Lowest {
		return fmt.Sprintf("%s is of cluster level %d, and %s: install a version that knows both, have the cluster raised (dmps meta raise), then install this one", e.What, e.Level, program)
	}
	install := fmt.Sprintf("a version that knows level %d", e.Level)
	if e.Since != "" {
		install = fmt.Sprintf("dmps %s, or a later version that knows level %d", e.Since, e.Level)
	}
	return fmt.Sprintf("%s is of cluster level %d, and %s: install %s, and start it again. Nothing was skipped or changed", e.What, e.Level, program, install)
}
