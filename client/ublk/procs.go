package ublk

import "runtime"

// Procs gives the Go scheduler so many more processors (GOMAXPROCS) as there
// are threads that wait in the kernel, for as long as the process lives. A
// thread that enters the kernel keeps its processor until the scheduler's
// watchdog takes it away, up to 10 ms later; with one to spare, whatever comes
// from the network meanwhile is run at once. queues is as in Config.
func Procs(queues int) {
	if queues <= 0 {
		queues = min(runtime.NumCPU(), maxQueues)
	}
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), runtime.NumCPU()+queues))
}
