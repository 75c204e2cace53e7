package client

import "time"

// origin is so long ago that nanotime is positive in the tests with virtual time
// too, whose clock begins in the year 2000 (testing/synctest): a time of 0 stands
// for never.
var origin = time.Now().Add(-40 * 365 * 24 * time.Hour)

// nanotime is monotonic time in nanoseconds, always above 0.
func nanotime() int64 { return int64(time.Since(origin)) }
