package nbd

import (
	"github.com/pojntfx/go-nbd/pkg/protocol"

	"dmps/transport"
)

// What go-nbd's protocol package has is used under its names; this file adds
// what it lacks. Source of all numbers: doc/proto.md of the NBD project.

// Handshake flags of the server, and the client's answers to them.
const (
	handshakeNoZeroes = uint16(1 << 1)

	clientFixedNewstyle = uint32(1 << 0)
	clientNoZeroes      = uint32(1 << 1)
)

// Options.
const (
	optExportName      = uint32(1)
	optAbort           = protocol.NEGOTIATION_ID_OPTION_ABORT
	optList            = protocol.NEGOTIATION_ID_OPTION_LIST
	optStartTLS        = uint32(5)
	optInfo            = protocol.NEGOTIATION_ID_OPTION_INFO
	optGo              = protocol.NEGOTIATION_ID_OPTION_GO
	optStructuredReply = uint32(8)
	optListMetaContext = uint32(9)
	optSetMetaContext  = uint32(10)
)

// Replies to options. Errors have bit 31.
const (
	repAck         = protocol.NEGOTIATION_TYPE_REPLY_ACK
	repServer      = protocol.NEGOTIATION_TYPE_REPLY_SERVER
	repInfo        = protocol.NEGOTIATION_TYPE_REPLY_INFO
	repMetaContext = uint32(4)

	repErrUnsup    = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED
	repErrPolicy   = uint32(1<<31 | 2)
	repErrInvalid  = uint32(1<<31 | 3)
	repErrUnknown  = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN
	repErrShutdown = uint32(1<<31 | 7)
	repErrTooBig   = uint32(1<<31 | 9)
)

// Transmission flags of an export.
const (
	flagHasFlags        = protocol.NEGOTIATION_REPLY_FLAGS_HAS_FLAGS
	flagReadOnly        = uint16(1 << 1)
	flagSendFlush       = uint16(1 << 2)
	flagSendFUA         = uint16(1 << 3)
	flagSendTrim        = uint16(1 << 5)
	flagSendWriteZeroes = uint16(1 << 6)
	flagSendDF          = uint16(1 << 7)
	flagCanMultiConn    = protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN
	flagSendCache       = uint16(1 << 10)
	flagSendFastZero    = uint16(1 << 11)
)

// Commands.
const (
	cmdRead        = protocol.TRANSMISSION_TYPE_REQUEST_READ
	cmdWrite       = protocol.TRANSMISSION_TYPE_REQUEST_WRITE
	cmdDisc        = protocol.TRANSMISSION_TYPE_REQUEST_DISC
	cmdFlush       = uint16(3)
	cmdTrim        = uint16(4)
	cmdCache       = uint16(5)
	cmdWriteZeroes = uint16(6)
	cmdBlockStatus = uint16(7)
)

// Command flags.
const (
	cmdFlagFUA      = uint16(1 << 0)
	cmdFlagNoHole   = uint16(1 << 1)
	cmdFlagDF       = uint16(1 << 2)
	cmdFlagReqOne   = uint16(1 << 3)
	cmdFlagFastZero = uint16(1 << 4)
)

// Structured replies.
const (
	structuredReplyMagic = uint32(0x668e33ef)

	replyFlagDone = uint16(1 << 0)

	chunkNone        = uint16(0)
	chunkOffsetData  = uint16(1)
	chunkOffsetHole  = uint16(2)
	chunkBlockStatus = uint16(5)
	chunkError       = uint16(1<<15 | 1)
	chunkErrorOffset = uint16(1<<15 | 2)
)

// States of a block in base:allocation.
const (
	stateHole = uint32(1 << 0)
	stateZero = uint32(1 << 1)
)

// Errno is an error as NBD sends it. The numbers are those of Linux.
type Errno uint32

const (
	errPerm     = Errno(protocol.TRANSMISSION_ERROR_EPERM)
	errIO       = Errno(5)
	errInval    = Errno(protocol.TRANSMISSION_ERROR_EINVAL)
	errNoSpace  = Errno(28)
	errOverflow = Errno(75)
	errNotSup   = Errno(95)
	errShutdown = Errno(108)
)

// Sizes of fixed parts, in bytes.
const (
	optionHeaderLen  = 16
	requestHeaderLen = 28
	simpleReplyLen   = 16
	chunkHeaderLen   = 20
)

// Limits.
const (
	// pageSize is the device's page, the unit of its buffers.
	pageSize = transport.PageSize
	// maxPayload is the largest read or write: NBD's customary 32 MiB, which
	// is also what one client.Op may carry.
	maxPayload = 32 << 20
	// minBlock and preferredBlock are advertised. Anything may be asked for to
	// the byte; whole pages need no read before a write.
	minBlock       = 1
	preferredBlock = 4096
	// maxName is the protocol's limit on strings.
	maxName = 4096
	// maxOption bounds the data of one option: a name, 255 information
	// requests or a dozen long queries; real clients send below 100 bytes.
	maxOption = 16 << 10
	// maxOptionSkip bounds what is read and thrown away of a longer one, so
	// that it can be answered. Beyond, the connection is closed.
	maxOptionSkip = 1 << 20
	// maxOptions bounds the options of one handshake: listing some hundred
	// exports with NBD_OPT_INFO for each must pass.
	maxOptions = 4096
	// maxExtents bounds the descriptors of one NBD_CMD_BLOCK_STATUS reply:
	// 64 KiB. The client asks again for the rest.
	maxExtents = 8192
)

// The only metadata context.
const (
	contextAllocation   = "base:allocation"
	contextAllocationID = uint32(1)
)
