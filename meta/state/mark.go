//go:build !nextlevel

package state

import "dmps/meta/level"

// marks is a field of commands that only a build for tests has (mark_next.go).
type marks struct{}

func (marks) mark(level.Level) {}
