// Package exitcode names the exit codes of the dmps command.
//
// They are part of its interface: scripts branch on them, and the embedded
// cluster (chaos/cluster) tells by them whether a start is worth another try.
// The numbers from 64 on are those of sysexits.h.
package exitcode

const (
	// OK: done; for status: everything is healthy; for scrub: is right.
	OK = 0
	// Failure: not done, for a reason that the message gives; for status: the
	// state cannot be told; for scrub: not everything could be verified.
	Failure = 1
	// Degraded: status found a volume with less redundancy than promised, and
	// no data lost; scrub found something wrong, and repaired it.
	Degraded = 2
	// Lost: status found a volume that has lost data, or cannot be written;
	// scrub found something wrong that it could not repair.
	Lost = 3
	// Usage: the command line is wrong.
	Usage = 64
	// NotFound: a volume, server or metadata node of this name is not known.
	NotFound = 66
	// Unavailable: no metadata node answers, or they have no leader.
	Unavailable = 69
	// CannotListen: an address that was to be listened on cannot be had.
	CannotListen = 73
	// InUse: the volume is attached elsewhere; the same command may succeed
	// later.
	InUse = 75
	// TooOld: this program does not know the cluster's level. To start it again
	// does not help: another version is to be installed.
	TooOld = 78
	// Fenced: another client has taken the volume while this one served it.
	Fenced = 77
)
