package client

import (
	"context"
	"fmt"
	"io"

	"dmps/raid"
)

// The paper's direct I/O interface: a Volume is an io.ReaderAt and an
// io.WriterAt. These calls block, may be used by any number of goroutines, and
// copy once between the caller's memory and the arena.

// directStep bounds what one step of a large ReadAt or WriteAt holds of the
// arena.
const directStep = 1 << 20

// ReadAt implements io.ReaderAt.
func (v *Volume) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > v.size {
		return 0, fmt.Errorf("reading at %d: %w", off, ErrRange)
	}
	n := 0
	for n < len(p) && off+int64(n) < v.size {
		step := min(len(p)-n, directStep, int(min(v.size-off-int64(n), directStep)))
		op := &Op{Kind: OpRead, Off: off + int64(n), Len: int64(step)}
		if err := v.do(op); err != nil {
			return n, fmt.Errorf("reading %d bytes at %d: %w", step, op.Off, err)
		}
		n += copyOut(p[n:n+step], op)
		v.Free(op.Bufs)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// copyOut copies the bytes of a finished read.
func copyOut(dst []byte, op *Op) int {
	n := 0
	skip := int(op.Off & (raid.PageSize - 1))
	for _, b := range op.Bufs {
		n += copy(dst[n:], b.Page[skip:])
		skip = 0
	}
	return n
}

// WriteAt implements io.WriterAt. When it returns nil every member of the rows
// has the data.
func (v *Volume) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > v.size || int64(len(p)) > v.size-off {
		return 0, fmt.Errorf("writing %d bytes at %d of %d: %w", len(p), off, v.size, ErrRange)
	}
	n := 0
	for n < len(p) {
		step := min(len(p)-n, directStep)
		op := &Op{Kind: OpWrite, Off: off + int64(n), Len: int64(step)}
		_, pages := span(op)
		bufs, err := v.Alloc(context.Background(), pages, nil)
		if err != nil {
			return n, fmt.Errorf("writing %d bytes at %d: %w", step, op.Off, err)
		}
		op.Bufs = bufs
		skip := int(op.Off & (raid.PageSize - 1))
		at := n
		for _, b := range bufs {
			at += copy(b.Page[skip:], p[at:n+step])
			skip = 0
		}
		if err := v.do(op); err != nil {
			return n, fmt.Errorf("writing %d bytes at %d: %w", step, off+int64(n), err)
		}
		n += step
	}
	return n, nil
}

// Trim forgets the whole pages inside of the range; they read as zeros.
func (v *Volume) Trim(off, n int64) error {
	return v.do(&Op{Kind: OpTrim, Off: off, Len: n})
}

// Zero writes zeros, to the byte.
func (v *Volume) Zero(off, n int64) error {
	return v.do(&Op{Kind: OpZero, Off: off, Len: n})
}

// Flush returns when everything that was answered before is as safe as the
// volume's redundancy makes it, which it is when it is answered.
func (v *Volume) Flush() error { return v.do(&Op{Kind: OpFlush}) }

func (v *Volume) do(op *Op) error {
	done := make(chan struct{})
	op.Done = func(*Op) { close(done) }
	v.Submit(op)
	v.Kick()
	<-done
	return op.Err
}

// Extents implements Device.
func (v *Volume) Extents(off, n int64, most int, dst []Extent) []Extent {
	if off < 0 || off >= v.size || n <= 0 || most <= 0 {
		return dst
	}
	n = min(n, v.size-off)
	if v.inplace != nil {
		return append(dst, Extent{Len: n})
	}
	a := v.lock()
	defer v.unlock(a)
	var cur Extent
	for n > 0 {
		p := raid.PageNo(off >> raid.PageShift)
		step := min(n, int64(p+1)<<raid.PageShift-off)
		e := Extent{Len: step}
		if v.mu.pending.oldest(p) == nil {
			at := v.mu.log.Lookup(p)
			e.Hole = at.Kind == raid.Absent || at.Kind == raid.Filled && at.Fill == 0
			e.Zero = e.Hole
		}
		switch {
		case cur.Len == 0:
			cur = e
		case cur.Hole == e.Hole && cur.Zero == e.Zero:
			cur.Len += step
		default:
			dst = append(dst, cur)
			if most--; most == 0 {
				return dst
			}
			cur = e
		}
		off += step
		n -= step
	}
	return append(dst, cur)
}
