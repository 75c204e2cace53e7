package stream

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaxBytes is the most that one call of Writer.Bytes can give, in bytes.
const MaxBytes = blockSize

const blockSize = 32 << 10

// block is staging memory for small bytes.
type block struct {
	buf   [blockSize]byte
	used  int // bytes handed out
	taken int // bytes that the kernel took. taken <= used
}

// piece is a run of bytes that waits to be sent.
type piece struct {
	b   []byte
	blk *block // nil: b is a reference
}

// mark is the end of a frame that somebody waits for.
type mark struct {
	end uint64 // position in the stream
	rel Releaser
}

// queue is what waits to be sent, in order. Its slices and blocks are reused,
// so that it allocates only while it grows to a new high.
type queue struct {
	pieces fifo[piece]
	marks  fifo[mark]
	cur    *block   // takes small bytes; may be empty
	free   []*block // neither cur nor in pieces
}

func (q *queue) empty() bool { return q.pieces.len() == 0 }

func (q *queue) bytes(n int) []byte {
	if n > blockSize {
		panic(fmt.Sprintf("stream: %d bytes in one piece", n))
	}
	if q.cur == nil || q.cur.used+n > blockSize {
		if k := len(q.free); k > 0 {
			q.cur, q.free = q.free[k-1], q.free[:k-1]
		} else {
			q.cur = new(block)
		}
	}
	c := q.cur
	b := c.buf[c.used : c.used+n]
	c.used += n
	// Neighbours in a block are sent as one buffer; a last piece that lies in
	// c ends where c was used up to. A flush in progress holds a copy of the
	// old length, and consumes by bytes: growing is safe.
	if p := q.pieces.last(); p != nil && p.blk == c {
		p.b = p.b[:len(p.b)+n]
		return b
	}
	q.pieces.push(piece{b: c.buf[c.used-n : c.used], blk: c})
	return b
}

func (q *queue) ref(b []byte) {
	if len(b) > 0 {
		q.pieces.push(piece{b: b})
	}
}

func (q *queue) release(end uint64, r Releaser) { q.marks.push(mark{end, r}) }

// fill puts as much of the queue into v as fits.
func (q *queue) fill(v *vec) {
	for _, p := range q.pieces.all() {
		if v.full() {
			return
		}
		v.iov[v.n] = unix.Iovec{Base: unsafe.SliceData(p.b), Len: uint64(len(p.b))}
		v.n++
	}
}

// consume removes the first n bytes.
func (q *queue) consume(n int) {
	for n > 0 {
		p := q.pieces.first()
		k := min(n, len(p.b))
		n -= k
		q.give(p.blk, k)
		if k < len(p.b) {
			p.b = p.b[k:]
			return
		}
		q.pieces.pop()
	}
}

// give books k bytes of a block as taken and reuses it when that was all.
func (q *queue) give(blk *block, k int) {
	if blk == nil {
		return
	}
	blk.taken += k
	if blk.taken < blk.used {
		return
	}
	blk.used, blk.taken = 0, 0
	if blk != q.cur {
		q.free = append(q.free, blk)
	}
}

// drop removes everything but the marks.
func (q *queue) drop() {
	for q.pieces.len() > 0 {
		p := q.pieces.first()
		q.give(p.blk, len(p.b))
		q.pieces.pop()
	}
}

// popReleased moves the Releasers of all frames that end at or before pos to
// dst.
func (q *queue) popReleased(pos uint64, dst []Releaser) []Releaser {
	for q.marks.len() > 0 && q.marks.first().end <= pos {
		dst = append(dst, q.marks.first().rel)
		q.marks.pop()
	}
	return dst
}

// fifo is a queue in one slice.
type fifo[T any] struct {
	s    []T
	head int
}

func (f *fifo[T]) len() int  { return len(f.s) - f.head }
func (f *fifo[T]) all() []T  { return f.s[f.head:] }
func (f *fifo[T]) first() *T { return &f.s[f.head] }

func (f *fifo[T]) last() *T {
	if f.len() == 0 {
		return nil
	}
	return &f.s[len(f.s)-1]
}

func (f *fifo[T]) push(v T) {
	if len(f.s) == cap(f.s) && f.head > len(f.s)/2 {
		n := copy(f.s, f.s[f.head:])
		clear(f.s[n:])
		f.s, f.head = f.s[:n], 0
	}
	f.s = append(f.s, v)
}

func (f *fifo[T]) pop() {
	var zero T
	f.s[f.head] = zero
	f.head++
	if f.head == len(f.s) {
		f.s, f.head = f.s[:0], 0
	}
}
