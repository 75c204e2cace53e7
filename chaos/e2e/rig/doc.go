// Package rig starts real processes for end-to-end tests and for comparisons,
// and guarantees that none outlives its starter.
//
//   - Process is one child: its output goes to a log file, its death is seen
//     at once, Stop asks before it kills.
//   - Dev is an embedded dmps cluster, started through the command line
//     `dmps dev` and known only by what that command documents: cluster.json.
//     Its roles can be killed, frozen, thawed and started again.
//   - Usage is what processes have used: CPU time and memory, from /proc.
//
// The package knows dmps as a user does, by its command line; it imports no
// other package of this module. Linux only.
package rig
