package server

import (
	"fmt"

	"dmps/raid"
	"dmps/transport"
)

// incoming is what the headers of the write say that a session receives, by segment.
type incoming struct {
	crc [transport.MaxSegs]uint32   // of its page
	seq [transport.MaxSegs]raid.Seq // up to where what its slot held is dead
	bad uint32                      // segments whose header is refused
	err error                       // the first of these refusals
}

// judge looks at the headers of io. Of one that is refused it takes no word.
func (w *incoming) judge(c *chunk, io *transport.SlotIO) {
	w.bad, w.err = 0, nil
	seg := 0
	for _, r := range io.Runs {
		for i := r.Start; i < r.Start+r.Count; i++ {
			h, err := c.admit(i, io.Headers[seg*io.HeaderBytes:][:io.HeaderBytes])
			if err != nil {
				w.refuse(seg, fmt.Errorf("slot %d of chunk %d: %w", i, c.id, err))
			}
			w.crc[seg], w.seq[seg] = h.CRC, max(h.Seq, 1)-1
			seg++
		}
	}
}

func (w *incoming) refuse(seg int, err error) {
	w.bad |= 1 << seg
	if w.err == nil {
		w.err = err
	}
}

// admit reports whether slot i of c may get this header. One that names another slot,
// group or volume was sent where it does not belong. An empty header names none, and
// belongs into chunks that are InPlace.
func (c *chunk) admit(i uint32, head []byte) (raid.Header, error) {
	h, err := raid.ParseHeader(head)
	if err != nil {
		return raid.Header{}, fmt.Errorf("%w: %w", transport.ErrChecksum, err)
	}
	if h.Site != c.site(i) && !(h.Kind == raid.KindEmpty && c.spec.InPlace) {
		return raid.Header{}, fmt.Errorf("%w: the header is that of slot %d of group %d of volume %d", transport.ErrChecksum, h.Index, h.Group, h.Volume)
	}
	return h, nil
}

// erase makes the slots erased that io has a page for: what they held before that is
// dead. Those that it has a header alone for keep theirs until the new one takes its place.
func (c *chunk) erase(io *transport.SlotIO, w *incoming) {
	c.mu.Lock()
	defer c.mu.Unlock()
	seg := 0
	for _, r := range io.Runs {
		for i := r.Start; i < r.Start+r.Count; i++ {
			if io.PageMask>>seg&1 != 0 {
				raid.PutErased(c.head(i), c.site(i), w.seq[seg])
			}
			seg++
		}
	}
}

// BeginWrite implements transport.Session. Slots that get a page are erased first,
// so that what they held cannot come back if the write does not end; unless the
// chunk is InPlace: those keep their old page until the new one is whole.
func (s *session) BeginWrite(io *transport.SlotIO) error {
	c, err := s.begin(io)
	if err != nil {
		return err
	}
	if s.hello.Mode != transport.ModeOwner {
		return fmt.Errorf("%w: a reader does not write", transport.ErrRefused)
	}
	io.Held = c
	s.write.judge(c, io)
	if c.spec.InPlace {
		if s.stage == nil {
			s.stage = make([]byte, transport.MaxSegs*raid.PageSize)
		}
		for i, n := 0, 0; i < io.Segs; i++ {
			if io.PageMask>>i&1 != 0 {
				io.Mem = append(io.Mem, s.stage[n:n+raid.PageSize])
				n += raid.PageSize
			}
		}
		return nil
	}
	c.erase(io, &s.write)
	io.Mem = c.appendPages(io.Mem, io)
	return nil
}

// CommitWrite implements transport.Session. Segments are judged one by one:
// the good ones are stored, also when another one is refused.
func (s *session) CommitWrite(io *transport.SlotIO) error {
	c := io.Held.(*chunk)
	io.Held = nil
	if err := s.alive(); err != nil {
		return err
	}
	w := &s.write
	seg, staged := 0, 0
	for _, r := range io.Runs {
		for i := r.Start; i < r.Start+r.Count; i++ {
			page := c.page(i)
			has := io.PageMask>>seg&1 != 0
			if has && c.spec.InPlace {
				page = s.stage[staged : staged+raid.PageSize]
				staged += raid.PageSize
			}
			if has && w.bad>>seg&1 == 0 && raid.Checksum(page) != w.crc[seg] {
				w.refuse(seg, fmt.Errorf("%w: the page for slot %d of chunk %d", transport.ErrChecksum, i, c.id))
			}
			if w.bad>>seg&1 == 0 {
				c.store(i, io.Headers[seg*io.HeaderBytes:][:io.HeaderBytes], page, has && c.spec.InPlace)
			} else {
				s.s.m.refusedPages.Inc()
			}
			seg++
		}
	}
	s.s.n.writes.Add(1)
	s.s.n.pagesIn.Add(uint64(io.Segs))
	return w.err
}

// store stores the header of slot i, and the page too unless it lies there already.
func (c *chunk) store(i uint32, head, page []byte, staged bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if staged {
		copy(c.page(i), page)
	}
	copy(c.head(i), head)
}

// AbortWrite implements transport.Session.
func (s *session) AbortWrite(io *transport.SlotIO) { io.Held = nil }
