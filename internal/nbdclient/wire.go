package nbdclient

import "fmt"

// Numbers of the protocol; source: doc/proto.md of the NBD project.
const (
	magicServer  = uint64(0x4e42444d41474943) // "NBDMAGIC"
	magicOption  = uint64(0x49484156454f5054) // "IHAVEOPT"
	magicReply   = uint64(0x3e889045565a9)
	magicRequest = uint32(0x25609513)
	magicSimple  = uint32(0x67446698)

	flagFixedNewstyle = uint16(1 << 0)
	flagNoZeroes      = uint16(1 << 1)

	optGo = uint32(7)

	repAck  = uint32(1)
	repInfo = uint32(3)
	repErr  = uint32(1 << 31)

	infoExport    = uint16(0)
	infoBlockSize = uint16(3)

	cmdRead  = uint16(0)
	cmdWrite = uint16(1)
	cmdDisc  = uint16(2)
	cmdFlush = uint16(3)
	cmdTrim  = uint16(4)

	// maxOptionReply bounds what a server may answer to an option: strings are
	// at most 4 KiB.
	maxOptionReply = 64 << 10
	// maxOptionReplies bounds how many of them: one a kind of information.
	maxOptionReplies = 64
)

// Errno is the error of one request, as the server sent it. The numbers are
// those of Linux.
type Errno uint32

// What a server of block devices answers.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	ESHUTDOWN Errno = 108
)

func (e Errno) Error() string {
	name, ok := map[Errno]string{
		EPERM: "EPERM", EIO: "EIO", 12: "ENOMEM", EINVAL: "EINVAL", ENOSPC: "ENOSPC",
		75: "EOVERFLOW", 95: "ENOTSUP", ESHUTDOWN: "ESHUTDOWN",
	}[e]
	if !ok {
		name = fmt.Sprintf("errno %d", uint32(e))
	}
	return "the NBD server answered " + name
}

// Info is what the server says of an export.
type Info struct {
	Size      int64  // bytes
	Flags     uint16 // transmission flags
	MinBlock  uint32 // bytes; 0 when the server did not say
	PrefBlock uint32 // bytes; 0 when the server did not say
	MaxBlock  uint32 // bytes; 0 when the server did not say
}
