package floor

import "encoding/binary"

// A request to a Store is 24 bytes, big endian, followed by length bytes when
// it is a write:
//
//	0  u32 1 read, 2 write
//	4  u32 length
//	8  u64 offset
//	16 u64 id
//
// A reply is the id, followed by the bytes when it was a read.
const (
	requestLen = 24
	replyLen   = 8

	opRead  = 1
	opWrite = 2
)

type request struct {
	op, length uint32
	off, id    uint64
}

func (q request) put(b []byte) {
	binary.BigEndian.PutUint32(b[0:], q.op)
	binary.BigEndian.PutUint32(b[4:], q.length)
	binary.BigEndian.PutUint64(b[8:], q.off)
	binary.BigEndian.PutUint64(b[16:], q.id)
}

func parseRequest(b []byte) request {
	return request{
		op: binary.BigEndian.Uint32(b[0:]), length: binary.BigEndian.Uint32(b[4:]),
		off: binary.BigEndian.Uint64(b[8:]), id: binary.BigEndian.Uint64(b[16:]),
	}
}
