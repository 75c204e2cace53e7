package nbd

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// errMagic ends a connection: what follows cannot be told apart any more.
var errMagic = errors.New("request without its magic")

// parseRequest decodes a request header of requestHeaderLen bytes.
//
//	0  4 magic
//	4  2 command flags
//	6  2 command
//	8  8 handle, opaque
//	16 8 offset
//	24 4 length
func parseRequest(b []byte) (protocol.TransmissionRequestHeader, error) {
	_ = b[requestHeaderLen-1]
	h := protocol.TransmissionRequestHeader{
		RequestMagic: binary.BigEndian.Uint32(b[0:]),
		CommandFlags: binary.BigEndian.Uint16(b[4:]),
		Type:         binary.BigEndian.Uint16(b[6:]),
		Handle:       binary.BigEndian.Uint64(b[8:]),
		Offset:       binary.BigEndian.Uint64(b[16:]),
		Length:       binary.BigEndian.Uint32(b[24:]),
	}
	if h.RequestMagic != protocol.TRANSMISSION_MAGIC_REQUEST {
		return h, errMagic
	}
	return h, nil
}

// rules is what a request is judged by: what the export is and what was
// negotiated.
type rules struct {
	size       int64 // of the export, bytes
	readOnly   bool
	structured bool // structured replies were negotiated
	allocation bool // base:allocation was selected for this export
}

// flags are the transmission flags that go with the rules.
func (r rules) flags() uint16 {
	// A dmps volume has one broker, whichever connection a request came by, and
	// no volatile cache: what was answered is seen by all connections.
	f := flagHasFlags | flagSendFlush | flagSendFUA | flagCanMultiConn | flagSendCache
	if r.readOnly {
		f |= flagReadOnly
	} else {
		f |= flagSendTrim | flagSendWriteZeroes | flagSendFastZero
	}
	if r.structured {
		f |= flagSendDF
	}
	return f
}

// check judges a request. 0 means that it can be carried out; a length of 0 is
// legal for all but NBD_CMD_BLOCK_STATUS. Whatever it says, the payload of a
// write follows the header and has to be read.
func (r rules) check(h *protocol.TransmissionRequestHeader) Errno {
	var (
		known   = cmdFlagFUA // valid with every command once it was advertised
		writes  bool
		payload bool
		beyond  = errInval
	)
	switch h.Type {
	case cmdRead:
		payload = true
		if r.structured {
			known |= cmdFlagDF
		}
	case cmdWrite:
		writes, payload, beyond = true, true, errNoSpace
	case cmdTrim:
		writes = true
	case cmdWriteZeroes:
		writes, beyond = true, errNoSpace
		known |= cmdFlagNoHole | cmdFlagFastZero
	case cmdFlush:
		if h.Offset != 0 || h.Length != 0 {
			return errInval
		}
	case cmdCache:
	case cmdBlockStatus:
		known |= cmdFlagReqOne
		if !r.allocation || h.Length == 0 {
			return errInval
		}
	default:
		return errInval
	}
	if h.CommandFlags&^known != 0 {
		return errInval
	}
	if writes && r.readOnly {
		return errPerm
	}
	if payload && h.Length > maxPayload {
		if h.Type == cmdRead && r.structured {
			return errOverflow
		}
		return errInval
	}
	// Offset and length are unsigned in the protocol; their sum must not wrap.
	if h.Offset > math.MaxInt64-uint64(h.Length) {
		return errInval
	}
	if h.Offset+uint64(h.Length) > uint64(r.size) {
		return beyond
	}
	if h.Type == cmdCache && h.Length > maxPayload {
		return errOverflow
	}
	if h.CommandFlags&cmdFlagFastZero != 0 && h.Length > 0 && !coversPage(int64(h.Offset), int64(h.Length)) {
		return errNotSup
	}
	return 0
}

// coversPage says whether a whole page lies in the range. Zeroing whole pages
// is an entry in the page map; the rest of a page has to be read and written,
// as with a write, and is not faster.
func coversPage(off, n int64) bool {
	first := (off + pageSize - 1) / pageSize
	return (first+1)*pageSize <= off+n
}
