package tcp

import (
	"fmt"

	"dmps/transport"
	"dmps/transport/stream"
)

const (
	rebuildHead       = 16
	rebuildSourceHead = 20 // and the address
	rebuildRowSize    = 16
	maxRebuildSources = transport.MaxRebuildMembers * (rebuildSourceHead + transport.MaxRebuildAddr) // bytes
	rebuildReplyHead  = 16
	rebuildFailSize   = 4
	maxRebuildReply   = rebuildReplyHead + transport.MaxRebuildRows*rebuildFailSize

	rebuildVerify = 1 // flag
)

// A Writer gives a request's headers, and the rows of a rebuild, in one piece.
var (
	_ [stream.MaxBytes - transport.MaxSegs*transport.MaxHeaderBytes]struct{}
	_ [stream.MaxBytes - transport.MaxRebuildRows*rebuildRowSize]struct{}
)

// rebuildSourcesSize is the size of the encoded sources of s, in bytes.
func rebuildSourcesSize(s *transport.RebuildSpec) int {
	n := 0
	for i := range s.Sources {
		n += rebuildSourceHead + len(s.Sources[i].Addr)
	}
	return n
}

// putRebuild encodes what is between the head of a request and the rows:
// rebuildHead and size bytes of sources.
func putRebuild(b []byte, s *transport.RebuildSpec, size int) {
	b[0], b[1], b[2], b[3] = uint8(s.K), uint8(s.M), s.Col, 0
	if s.Verify {
		b[3] = rebuildVerify
	}
	le.PutUint32(b[4:], uint32(size))
	le.PutUint64(b[8:], uint64(s.RateBytes))
	b = b[rebuildHead:]
	for i := range s.Sources {
		o := &s.Sources[i]
		le.PutUint64(b, o.Incarnation)
		le.PutUint64(b[8:], o.Chunk)
		b[16], b[17] = o.Col, 0
		le.PutUint16(b[18:], uint16(len(o.Addr)))
		b = b[rebuildSourceHead+copy(b[rebuildSourceHead:], o.Addr):]
	}
}

func putRebuildRows(b []byte, rows []transport.RebuildRow) {
	for i := range rows {
		r, b := &rows[i], b[i*rebuildRowSize:]
		le.PutUint32(b, r.Index)
		le.PutUint32(b[4:], r.Tag)
		le.PutUint16(b[8:], r.Filled)
		le.PutUint16(b[10:], 0)
		le.PutUint32(b[12:], r.Have)
	}
}

// parseRebuildHead decodes the fixed part; size is that of the sources.
func parseRebuildHead(b []byte, q *request) (s transport.RebuildSpec, size int, err error) {
	if len(b) < rebuildHead {
		return s, 0, fmt.Errorf("%w: rebuild of %d bytes", errFrame, len(b))
	}
	n := le.Uint32(b[4:])
	if b[3]&^rebuildVerify != 0 || n > maxRebuildSources || n < uint32(q.runs)*rebuildSourceHead {
		return s, 0, fmt.Errorf("%w: rebuild from %d sources in %d bytes", errFrame, q.runs, n)
	}
	s = transport.RebuildSpec{
		Chunk: q.chunk, K: int(b[0]), M: int(b[1]), Col: b[2], Verify: b[3] == rebuildVerify, RateBytes: int64(le.Uint64(b[8:])),
	}
	return s, int(n), nil
}

// parseRebuildSources decodes n sources, which must fill b.
func parseRebuildSources(b []byte, n int) ([]transport.RebuildSource, error) {
	var l []transport.RebuildSource
	if n > 0 {
		l = make([]transport.RebuildSource, 0, n)
	}
	for range n {
		if len(b) < rebuildSourceHead {
			return nil, fmt.Errorf("%w: source %d is cut off", errFrame, len(l))
		}
		o := transport.RebuildSource{Incarnation: le.Uint64(b), Chunk: le.Uint64(b[8:]), Col: b[16]}
		size := int(le.Uint16(b[18:]))
		if b[17] != 0 || size > len(b)-rebuildSourceHead {
			return nil, fmt.Errorf("%w: source %d with an address of %d bytes", errFrame, len(l), size)
		}
		o.Addr = string(b[rebuildSourceHead : rebuildSourceHead+size])
		b = b[rebuildSourceHead+size:]
		l = append(l, o)
	}
	if len(b) != 0 {
		return nil, fmt.Errorf("%w: %d bytes after the sources", errFrame, len(b))
	}
	return l, nil
}

// parseRebuildRows decodes all rows in b.
func parseRebuildRows(b []byte) ([]transport.RebuildRow, error) {
	l := make([]transport.RebuildRow, 0, len(b)/rebuildRowSize)
	for ; len(b) >= rebuildRowSize; b = b[rebuildRowSize:] {
		if le.Uint16(b[10:]) != 0 {
			return nil, fmt.Errorf("%w: row %d of a rebuild", errFrame, len(l))
		}
		l = append(l, transport.RebuildRow{
			Index: le.Uint32(b), Tag: le.Uint32(b[4:]), Filled: le.Uint16(b[8:]), Have: le.Uint32(b[12:]),
		})
	}
	return l, nil
}

func rebuildReplySize(r *transport.RebuildResult) int {
	return rebuildReplyHead + len(r.Failed)*rebuildFailSize
}

func putRebuildReply(b []byte, r *transport.RebuildResult) {
	le.PutUint64(b, r.Pulled)
	le.PutUint64(b[8:], r.Checked)
	for i, f := range r.Failed {
		b := b[rebuildReplyHead+i*rebuildFailSize:]
		le.PutUint16(b, uint16(f.Row))
		b[2], b[3] = byte(f.Reason), f.Col
	}
}

// parseRebuildReply decodes the answer to a rebuild of rows rows of members
// columns.
func parseRebuildReply(b []byte, rows, members int) (transport.RebuildResult, error) {
	var r transport.RebuildResult
	if len(b) < rebuildReplyHead || len(b) > rebuildReplyHead+rows*rebuildFailSize || (len(b)-rebuildReplyHead)%rebuildFailSize != 0 {
		return r, fmt.Errorf("%w: rebuilt %d rows, %d bytes", errFrame, rows, len(b))
	}
	r.Pulled, r.Checked = le.Uint64(b), le.Uint64(b[8:])
	last := -1
	for b = b[rebuildReplyHead:]; len(b) > 0; b = b[rebuildFailSize:] {
		f := transport.RebuildFailure{Row: int(le.Uint16(b)), Reason: transport.RebuildReason(b[2]), Col: b[3]}
		if f.Row <= last || f.Row >= rows || !f.Reason.Valid() || int(f.Col) >= members {
			return transport.RebuildResult{}, fmt.Errorf("%w: row %d of %d failed after %d, reason %d, column %d of %d", errFrame, f.Row, rows, last, b[2], f.Col, members)
		}
		last = f.Row
		r.Failed = append(r.Failed, f)
	}
	return r, nil
}
