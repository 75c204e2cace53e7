package client

import "errors"

// Sentinels that an Op ends with.
var (
	ErrClosed  = errors.New("volume is closed")                           // ESHUTDOWN
	ErrRange   = errors.New("outside of the device")                      // EINVAL
	ErrLost    = errors.New("too few members hold this page: it is gone") // EIO, for exactly these pages
	ErrNoSpace = errors.New("no group can take a row")                    // EIO after the patience ran out: too few servers are alive
)
