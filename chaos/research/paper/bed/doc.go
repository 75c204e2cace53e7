// Package bed is where package paper's workloads run: it attaches devices, makes
// file systems, swaps, limits memory and lays links, in a guest that exists for
// nothing else.
//
// Nouns: a Bed is the guest with what its image brought along; a device is one
// of the things that are compared, attached while it is measured; a figures.Report takes
// rows to the console, where package paper's runner finds them.
//
// The path of a figure: Bed.Run attaches device after device, runs the figure's
// workload on each, reports rows, and takes everything down again. What
// cannot be taken down ends the figure with an error: it would run below the
// next one.
//
// Run refuses to work outside of a guest (Guard): on any other machine a swap
// device that dies takes the machine with it.
package bed
