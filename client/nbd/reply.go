package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"dmps/client"
)

// errShort is a Device that broke its contract; the client must not take
// what is missing for data.
var errShort = errors.New("device returned too few pages")

// maxMessage bounds the text in an error chunk, in bytes.
const maxMessage = 256

// complete goes on with a call that the device is done with: stage 4 of
// doc.go, on any goroutine.
func (c *conn) complete(k *call) {
	op, err := &k.op, k.op.Err
	switch op.Kind {
	case client.OpRead:
		k.bufs = len(op.Bufs) > 0
		if err == nil && int64(len(op.Bufs)) != pagesOf(op.Off, op.Len) {
			err = errShort
		}
	case client.OpWrite:
		op.Bufs = op.Bufs[:0] // freed by the device
	case client.OpTrim, client.OpZero:
		if at := op.Off + op.Len; err == nil && at < k.end {
			op.Off, op.Len = at, piece(at, k.end)
			c.kick.Store(true)
			c.dev.Submit(op)
			return
		}
	}
	op.Err = nil
	c.answer(k, errnoOf(err), err)
}

// answer appends the reply to a call; the next flush sends it. why may say more
// than errno.
func (c *conn) answer(k *call, errno Errno, why error) {
	if c.w.Begin() != nil {
		c.fail() // the reader shall notice too
		k.Released()
		return
	}
	switch {
	case k.cmd != cmdRead && k.cmd != cmdBlockStatus || !c.rules.structured:
		c.simple(k, errno)
		if errno == 0 && k.cmd == cmdRead {
			c.pages(k, k.off, k.end)
		}
	case errno != 0:
		c.errorChunk(k, errno, why)
	case k.cmd == cmdRead:
		c.content(k)
	}
	c.w.End(k) // from here on k may be in use again
	c.dirty.Store(true)
}

// simple appends a simple reply.
//
//	0 4 magic
//	4 4 errno
//	8 8 handle
func (c *conn) simple(k *call, errno Errno) {
	b := c.w.Bytes(simpleReplyLen)
	binary.BigEndian.PutUint32(b[0:], protocol.TRANSMISSION_MAGIC_REPLY)
	binary.BigEndian.PutUint32(b[4:], uint32(errno))
	binary.BigEndian.PutUint64(b[8:], k.handle)
}

// chunk appends the header of a chunk of a structured reply and the first n
// bytes of its payload, which it returns to be filled. length is that of the
// whole payload.
//
//	0  4 magic
//	4  2 flags
//	6  2 type
//	8  8 handle
//	16 4 length of the payload
func (c *conn) chunk(k *call, typ uint16, last bool, n, length int) []byte {
	b := c.w.Bytes(chunkHeaderLen + n)
	binary.BigEndian.PutUint32(b[0:], structuredReplyMagic)
	var flags uint16
	if last {
		flags = replyFlagDone
	}
	binary.BigEndian.PutUint16(b[4:], flags)
	binary.BigEndian.PutUint16(b[6:], typ)
	binary.BigEndian.PutUint64(b[8:], k.handle)
	binary.BigEndian.PutUint32(b[16:], uint32(length))
	return b[chunkHeaderLen:]
}

// errorChunk appends an error as the only chunk. What the device could not do
// carries the offset at which that is known, the start of the request; what
// was wrong with the request does not.
func (c *conn) errorChunk(k *call, errno Errno, why error) {
	msg := errno.String()
	if why != nil {
		msg = why.Error()
	}
	msg = msg[:min(len(msg), maxMessage)]
	typ, n := chunkError, 6+len(msg)
	if why != nil && k.end > k.off {
		typ, n = chunkErrorOffset, n+8
	}
	b := c.chunk(k, typ, true, n, n)
	binary.BigEndian.PutUint32(b[0:], uint32(errno))
	binary.BigEndian.PutUint16(b[4:], uint16(len(msg)))
	copy(b[6:], msg)
	if typ == chunkErrorOffset {
		binary.BigEndian.PutUint64(b[6+len(msg):], uint64(k.off))
	}
}

// content appends what was read as chunks of data and of holes. Runs of pages
// that are all zeros become holes, which spares the socket; with
// NBD_CMD_FLAG_DF there is one chunk.
func (c *conn) content(k *call) {
	if k.off == k.end {
		c.chunk(k, chunkNone, true, 0, 0)
		return
	}
	whole := k.flags&cmdFlagDF != 0
	for off := k.off; off < k.end; {
		hole := c.zeroPage(k, off)
		end := pageEnd(off, k.end)
		for end < k.end && c.zeroPage(k, end) == hole {
			end = pageEnd(end, k.end)
		}
		if whole && end < k.end {
			hole, end = false, k.end // holes and data: all of it is data
		}
		last := end == k.end
		if hole {
			b := c.chunk(k, chunkOffsetHole, last, 12, 12)
			binary.BigEndian.PutUint64(b[0:], uint64(off))
			binary.BigEndian.PutUint32(b[8:], uint32(end-off))
		} else {
			b := c.chunk(k, chunkOffsetData, last, 8, 8+int(end-off))
			binary.BigEndian.PutUint64(b, uint64(off))
			c.pages(k, off, end)
		}
		off = end
	}
}

// pages appends the bytes of [off, end) by reference.
func (c *conn) pages(k *call, off, end int64) {
	for off < end {
		next := pageEnd(off, end)
		c.w.Ref(k.page(off, next))
		off = next
	}
}

// page is the part [off, end) of a call's buffers; it lies in one page.
func (k *call) page(off, end int64) []byte {
	at := off % pageSize
	return k.op.Bufs[off/pageSize-k.off/pageSize].Page[at : at+end-off]
}

// pageEnd is the end of the page that off lies in, or end.
func pageEnd(off, end int64) int64 {
	return min(end, (off/pageSize+1)*pageSize)
}

var zeros [pageSize]byte

// zeroPage says whether what the call wants of the page at off is all zeros.
func (c *conn) zeroPage(k *call, off int64) bool {
	b := k.page(off, pageEnd(off, k.end))
	// Data seldom begins with a zero and ends with one: look before comparing.
	return b[0]|b[len(b)-1] == 0 && bytes.Equal(b, zeros[:len(b)])
}

// blockStatus answers NBD_CMD_BLOCK_STATUS out of the device's page map, on
// the reader.
//
//	0 4 context
//	4   extents, each a length of 4 bytes and flags of 4
func (c *conn) blockStatus(k *call) {
	most := maxExtents
	if k.flags&cmdFlagReqOne != 0 {
		most = 1
	}
	c.extents = clip(c.dev.Extents(k.off, k.end-k.off, most, c.extents[:0]), k.end-k.off, most)
	if c.w.Begin() != nil {
		c.fail()
		k.Released()
		return
	}
	b := c.chunk(k, chunkBlockStatus, true, 4, 4+8*len(c.extents))
	binary.BigEndian.PutUint32(b, contextAllocationID)
	for _, e := range c.extents {
		var state uint32
		if e.Hole {
			state |= stateHole
		}
		if e.Zero {
			state |= stateZero
		}
		b := c.w.Bytes(8)
		binary.BigEndian.PutUint32(b[0:], uint32(e.Len))
		binary.BigEndian.PutUint32(b[4:], state)
	}
	c.w.End(k)
	c.dirty.Store(true)
}

// clip makes extents fit for the reply: positive lengths, at most most, none
// beyond n bytes, at least one. A range of which nothing is known is allocated
// and may hold anything, which is always true.
func clip(ext []client.Extent, n int64, most int) []client.Extent {
	kept := ext[:0]
	for _, e := range ext {
		if e.Len = min(e.Len, n); e.Len <= 0 || len(kept) == most {
			break
		}
		n -= e.Len
		kept = append(kept, e)
	}
	if len(kept) == 0 {
		kept = append(kept, client.Extent{Len: n})
	}
	return kept
}
