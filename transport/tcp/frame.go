package tcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"dmps/transport"
)

// Frame types. Their numbers are part of the protocol.
const (
	typeRead        = 0x01
	typeWrite       = 0x02
	typeReadHeaders = 0x03
	typeOpenChunk   = 0x04
	typeRebuild     = 0x05
	typeExtend      = 0x06
	typeReply       = 0x81
	typeGoaway      = 0x82
)

const (
	requestHead = 24
	runSize     = 8
	openSize    = 16
	replyHead   = 12
	maxText     = 512 // bytes of a goaway's text
)

// errFrame is a peer that does not keep the protocol: its connection ends.
var errFrame = errors.New("malformed frame")

var le = binary.LittleEndian

// request is the head of a request frame.
type request struct {
	typ         uint8
	runs        uint8  // number of runs that follow; typeRebuild: of sources
	headerBytes uint16 // typeRebuild and typeExtend: 0
	id          uint32
	chunk       uint64
	segs        uint32 // slots; for typeReadHeaders up to MaxHeadersBytes / headerBytes; typeRebuild: rows; typeExtend: bytes
	mask        uint32 // segments with a page
}

func (q *request) put(b []byte) {
	b[0], b[1] = q.typ, q.runs
	le.PutUint16(b[2:], q.headerBytes)
	le.PutUint32(b[4:], q.id)
	le.PutUint64(b[8:], q.chunk)
	le.PutUint32(b[16:], q.segs)
	le.PutUint32(b[20:], q.mask)
}

// parseRequest decodes the fixed head of a request and checks every bound that
// it can: what it accepts is safe to size by.
func parseRequest(b []byte) (request, error) {
	if len(b) < requestHead {
		return request{}, fmt.Errorf("%w: request of %d bytes", errFrame, len(b))
	}
	q := request{
		typ: b[0], runs: b[1], headerBytes: le.Uint16(b[2:]), id: le.Uint32(b[4:]),
		chunk: le.Uint64(b[8:]), segs: le.Uint32(b[16:]), mask: le.Uint32(b[20:]),
	}
	if q.typ < typeRead || q.typ > typeExtend {
		return q, fmt.Errorf("%w: request type %#x", errFrame, q.typ)
	}
	if q.headerBytes < 1 != (q.typ >= typeRebuild) || q.headerBytes > transport.MaxHeaderBytes {
		return q, fmt.Errorf("%w: slot headers of %d bytes", errFrame, q.headerBytes)
	}
	ok := false
	switch q.typ {
	case typeRead, typeWrite:
		ok = q.segs >= 1 && q.segs <= transport.MaxSegs && q.runs >= 1 && uint32(q.runs) <= q.segs &&
			bits.Len32(q.mask) <= int(q.segs)
	case typeReadHeaders:
		ok = q.segs >= 1 && q.segs <= transport.MaxHeadersBytes/uint32(q.headerBytes) && q.runs == 1 && q.mask == 0
	case typeOpenChunk:
		ok = q.segs == 0 && q.runs == 0 && q.mask == 0
	case typeRebuild:
		ok = q.segs >= 1 && q.segs <= transport.MaxRebuildRows && q.runs <= transport.MaxRebuildMembers && q.mask == 0
	case typeExtend:
		ok = q.segs >= 1 && q.segs <= MaxExtend && q.runs == 0 && q.mask == 0
	}
	if !ok {
		return q, fmt.Errorf("%w: request %#x of %d slots in %d runs, page mask %#x", errFrame, q.typ, q.segs, q.runs, q.mask)
	}
	return q, nil
}

// appendRuns decodes n runs from b, which must cover exactly segs slots.
func appendRuns(dst []transport.Run, b []byte, n int, segs uint32) ([]transport.Run, error) {
	if len(b) < n*runSize {
		return dst, fmt.Errorf("%w: %d runs in %d bytes", errFrame, n, len(b))
	}
	left := segs
	for i := range n {
		r := transport.Run{Start: le.Uint32(b[i*runSize:]), Count: le.Uint32(b[i*runSize+4:])}
		if r.Count == 0 || r.Count > left || uint64(r.Start)+uint64(r.Count) > 1<<32 {
			return dst, fmt.Errorf("%w: run of %d slots at %d", errFrame, r.Count, r.Start)
		}
		left -= r.Count
		dst = append(dst, r)
	}
	if left != 0 {
		return dst, fmt.Errorf("%w: runs miss %d slots", errFrame, left)
	}
	return dst, nil
}

func putRuns(b []byte, runs []transport.Run) {
	for i, r := range runs {
		le.PutUint32(b[i*runSize:], r.Start)
		le.PutUint32(b[i*runSize+4:], r.Count)
	}
}

// Flags of an open.
const (
	openInPlace   = 1
	openMustExist = 2
	openRelease   = 4
)

func putOpen(b []byte, s transport.ChunkSpec) {
	clear(b[:openSize])
	le.PutUint32(b, s.Slots)
	le.PutUint32(b[4:], s.HeaderBytes)
	var f uint32
	if s.InPlace {
		f |= openInPlace
	}
	if s.MustExist {
		f |= openMustExist
	}
	if s.Release {
		f |= openRelease
	}
	le.PutUint32(b[8:], f)
	le.PutUint32(b[12:], s.Group)
}

func parseOpen(b []byte) (transport.ChunkSpec, error) {
	if len(b) < openSize {
		return transport.ChunkSpec{}, fmt.Errorf("%w: open of %d bytes", errFrame, len(b))
	}
	f := le.Uint32(b[8:])
	if f&^(openInPlace|openMustExist|openRelease) != 0 {
		return transport.ChunkSpec{}, fmt.Errorf("%w: open with flags %#x", errFrame, f)
	}
	return transport.ChunkSpec{
		Slots: le.Uint32(b), HeaderBytes: le.Uint32(b[4:]), Group: le.Uint32(b[12:]),
		InPlace: f&openInPlace != 0, MustExist: f&openMustExist != 0, Release: f&openRelease != 0,
	}, nil
}

// reply is the head of a frame from the server.
type reply struct {
	typ    uint8
	status transport.Status
	id     uint32
	length uint32 // bytes that follow
}

func (p *reply) put(b []byte) {
	b[0], b[1], b[2], b[3] = p.typ, byte(p.status), 0, 0
	le.PutUint32(b[4:], p.id)
	le.PutUint32(b[8:], p.length)
}

func parseReply(b []byte) (reply, error) {
	if len(b) < replyHead {
		return reply{}, fmt.Errorf("%w: reply of %d bytes", errFrame, len(b))
	}
	p := reply{typ: b[0], status: transport.Status(b[1]), id: le.Uint32(b[4:]), length: le.Uint32(b[8:])}
	if p.typ != typeReply && p.typ != typeGoaway || b[2] != 0 || b[3] != 0 || !p.status.Valid() {
		return p, fmt.Errorf("%w: reply type %#x, status %d", errFrame, p.typ, p.status)
	}
	switch limit := uint32(transport.MaxSegs * (transport.PageSize + transport.MaxHeaderBytes)); {
	case p.typ == typeGoaway && (p.length > maxText || p.status == transport.StatusOK),
		p.typ == typeReply && (p.length > limit || p.status != transport.StatusOK && p.length != 0):
		return p, fmt.Errorf("%w: reply type %#x, status %d, of %d bytes", errFrame, p.typ, p.status, p.length)
	}
	return p, nil
}
