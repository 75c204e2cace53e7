package client

import "time"

var processStart = time.Now()

// nanotime is the monotonic time since the program started, in nanoseconds.
func nanotime() int64 { return int64(time.Since(processStart)) }
