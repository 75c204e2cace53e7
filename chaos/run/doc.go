// Package run carries out a fault plan against a cluster under load, and judges
// what the clients saw.
//
// The nouns: a Target is a cluster that can be broken: Processes (real ones,
// over NBD) or InProcess (real servers and metadata nodes in this process, over
// loopback sockets, and the Go API of client.Volume). A load is the workers that
// read, write and trim; every write is recorded (chaos/history). Run carries out a
// plan.Plan and gives a Report.
//
// The path of Run: start the load; for each step break something and see to
// it that it is mended in time; at a heal wait until nothing is broken and the
// volume says that all redundancy is there, by itself; at the end do that once
// more, read every page, and check the history. A run fails when the history is
// not linearizable, when a page held what nobody wrote there, when a request
// failed although the plan stays within what the redundancy bears, when
// a process ended that nobody had killed, or when redundancy did not come back.
//
// Read in this order: target.go, run.go, load.go, report.go, processes.go,
// inproc.go; then what is done to processes: damage.go, clock.go, disk.go.
package run
