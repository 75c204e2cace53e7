package nbd

import (
	"errors"
	"fmt"

	"dmps/client"
)

// errnoOf translates what an Op ended with. Anything that is not known is an
// I/O error: the data may be gone and the client must not believe otherwise.
func errnoOf(err error) Errno {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, client.ErrClosed), errors.Is(err, client.ErrFenced):
		return errShutdown
	case errors.Is(err, client.ErrRange):
		return errInval
	default:
		// client.ErrLost: these pages are gone. client.ErrNoSpace: too few
		// servers are alive to hold the row, which is not the writer's fault
		// and not a full disk.
		return errIO
	}
}

// String is the name in errno(3).
func (e Errno) String() string {
	switch e {
	case 0:
		return "OK"
	case errPerm:
		return "EPERM"
	case errIO:
		return "EIO"
	case errInval:
		return "EINVAL"
	case errNoSpace:
		return "ENOSPC"
	case errOverflow:
		return "EOVERFLOW"
	case errNotSup:
		return "ENOTSUP"
	case errShutdown:
		return "ESHUTDOWN"
	}
	return fmt.Sprintf("errno %d", uint32(e))
}
