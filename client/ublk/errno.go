package ublk

import (
	"errors"

	"golang.org/x/sys/unix"

	"dmps/client"
)

// resultOf is what the driver is told of an op that ended with err: an errno
// below zero. The block layer knows few of them (errno_to_blk_status in
// block/blk-core.c) and takes the rest for EIO, which is what a client that is
// closed or fenced, a page that is gone, and too few servers for a row are to
// it: the data is not there, and nothing else must be believed.
func resultOf(err error) int32 {
	switch {
	case errors.Is(err, errUnknownOp):
		return -int32(unix.EOPNOTSUPP)
	case errors.Is(err, errOutside), errors.Is(err, client.ErrRange):
		return -int32(unix.EINVAL)
	}
	return -int32(unix.EIO)
}
