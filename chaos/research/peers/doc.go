// Package peers compares dmps with other NBD servers on the same machine, in
// the same run, driven by the same client.
//
// Nouns, in reading order:
//
//   - Cell is one workload: block size, random or sequential, read or write,
//     depth.
//   - Contender is a server that can be started: nbdkit, nbd-server, qemu-nbd,
//     QEMU's quorum over three nbdkit, dmps in several geometries, and for each
//     of these a floor (package floor): the same bytes over the same hops with
//     nothing else done, which tells a slow dmps from a slow machine.
//   - Plan is what to run; Plan.Run starts all contenders, fills them with random
//     data, and measures each cell on each of them in turn, round after
//     round, so that what else happens on the machine meets all of them.
//   - Sample is one measurement; Report holds all of them, the environment and
//     the plain TCP round trips, and renders tables and JSON.
//   - Bar is a ratio that is wanted; the report says for each whether it is reached.
//
// Absolute numbers say little on a shared machine; ratios within one run do.
// docs/measuring.md tells how to read them.
//
// Linux only: it needs fio with the nbd engine, /proc and /dev/shm.
package peers
