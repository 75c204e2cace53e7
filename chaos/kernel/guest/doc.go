// Command guest is everything that a guest runs besides dmps: it is /init, and
// again each program of a scenario (hog, plain NBD server).
//
// As /init, process 1 (init.go): it mounts what a program expects, loads the
// modules, runs the job that the host has put into the initrd, and ends the
// guest with the job's exit status.
//
// It does what must never be done to a machine that somebody works on, swapon
// above all. So it runs nowhere but as process 1 of a guest, or as a child of
// that (inguest.go of package kernel).
package main
