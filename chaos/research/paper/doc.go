// Package paper measures what the paper on DMPS measured, and what it left open,
// on a kernel that really swaps: the guest's local disk, a plain NBD server and
// dmps side by side in one run.
//
// Nouns, in reading order:
//
//   - A figure is a question with a picture: message, direct, filesystem, fill,
//     cluster, apps, paths. Each has a file here with its workload and its row,
//     and a file of the same name in package draw with its picture.
//   - A row is one measurement of one figure (MessageRow, DirectRow, FileRow,
//     FillRow, ClusterRow, AppRow, PathRow): bytes, seconds, and the counters that
//     explain them. Rates and ratios are computed when drawing, never stored.
//   - Data is a file of rows with the machine and the time they come from, as it
//     lies in docs/paper/data.
//   - VM and Disk are counters of the kernel; a measurement stores their
//     differences.
//   - A Limit is a control group in which a workload has little memory and may
//     swap. The servers of its swap device are never in it.
//
// The workloads are ordinary code: they take a path or plain memory and know
// nothing of dmps, guests or swap devices, and their tests run anywhere. What
// attaches devices, makes file systems and calls swapon is package bed, which
// refuses to work outside of a guest.
//
// Data is never one byte value a page: the kernel and dmps both keep such pages
// for nothing. Every page that is read is checked against what was written
// (Stamp), so a fast wrong answer is an error.
//
// Under emulation everything is slow, and the processor is slower than the
// network is: absolute numbers say nothing, ratios within one run do.
// docs/paper/README.md tells what each figure shows.
package paper
