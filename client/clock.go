package client

import "time"

var processStart = time.Now()

// startAt is what nanotime begins with. 0 stands for never, and a test's virtual
// clock begins long before the process.
const startAt = 1 << 60

// nanotime is monotonic time in nanoseconds, always above 0.
func nanotime() int64 { return startAt + int64(time.Since(processStart)) }
