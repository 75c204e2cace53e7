//go:build nextlevel

package state

import "dmps/meta/level"

// marks stands for what a later version adds: a field in every command, from level 2
// on. A build without it refuses to read such a command.
type marks struct {
	Mark bool `json:"mark,omitempty" level:"2"`
}

func (m *marks) mark(at level.Level) { m.Mark = at >= 2 }
