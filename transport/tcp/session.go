package tcp

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"os"
	"sync"
	"time"

	"dmps/transport"
	"dmps/transport/stream"
)

// session is the server's end of one session. Its goroutine reads requests,
// has the Backend serve them and appends the replies; it flushes when its
// input has run dry.
type session struct {
	c net.Conn
	r *stream.Reader
	w *stream.Writer
	b transport.Session

	io   transport.SlotIO // of the write in hand
	free chan *served     // replies that may still be queued: one a credit

	end struct {
		sync.Mutex
		cause error // set by stop
	}
	ended chan struct{} // closed by stop

	rebuilds rebuilds
}

// served is a reply that the Writer holds, and the read that pins its memory.
type served struct {
	s    *session
	io   transport.SlotIO
	read bool
}

// Released is called when the Writer has sent the reply.
func (v *served) Released() {
	if v.read {
		v.s.b.EndRead(&v.io)
		v.read = false
	}
	v.s.free <- v // never blocks: as many places as replies
}

func newSession(c net.Conn) (*session, error) {
	s := &session{c: c, ended: make(chan struct{})}
	var err error
	if s.r, err = stream.NewReader(c, stream.DefaultStage); err != nil {
		return nil, err
	}
	if s.w, err = stream.NewWriter(c); err != nil {
		return nil, err
	}
	return s, nil
}

// stop ends the session from outside: the reader comes back with an expired
// deadline, from the middle of a page too.
func (s *session) stop(cause error) {
	s.end.Lock()
	defer s.end.Unlock()
	if s.end.cause == nil {
		s.end.cause = cause
		close(s.ended)
	}
	_ = s.c.SetReadDeadline(time.Unix(1, 0)) // fails only when c is closed: stopped as well
}

func (s *session) stopped() error {
	s.end.Lock()
	defer s.end.Unlock()
	return s.end.cause
}

// begin arms the connection for the session, unless it was stopped already:
// the handshake's deadline must not erase that of stop.
func (s *session) begin() error {
	s.end.Lock()
	defer s.end.Unlock()
	if s.end.cause != nil {
		return s.end.cause
	}
	return s.c.SetDeadline(time.Time{})
}

// run serves the session until it ends.
func (s *session) run(b transport.Session, w transport.Welcome, version uint16) error {
	s.b = b
	s.rebuilds.begin()
	defer s.w.Close()
	s.free = make(chan *served, w.Window)
	for range w.Window {
		v := &served{s: s}
		v.io.Runs = make([]transport.Run, 0, transport.MaxSegs)
		v.io.Mem = make([][]byte, 0, transport.MaxSegs)
		s.free <- v
	}
	s.io.Runs = make([]transport.Run, 0, transport.MaxSegs)
	s.io.Mem = make([][]byte, 0, transport.MaxSegs)
	scratch := make([]byte, transport.MaxSegs*transport.MaxHeaderBytes)
	_, err := s.c.Write(encodeWelcome(w, version))
	if err == nil {
		err = s.begin()
	}
	for err == nil {
		err = s.one(scratch)
	}
	// From here on nothing writes to the Backend's memory: whoever waits in
	// Open to end this session may go on.
	s.rebuilds.cancel()
	b.Close()
	defer s.rebuilds.wg.Wait() // they are told; nobody else waits for them
	if cause := s.stopped(); cause != nil {
		s.goaway(cause)
		return cause
	}
	if errors.Is(err, errFrame) {
		s.goaway(fmt.Errorf("%w: %w", transport.ErrRefused, err))
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// need makes sure that n bytes can be had, or flushes before it waits for them.
func (s *session) need(n int) {
	if s.r.Buffered() < n {
		s.w.Flush()
	}
}

// one reads and serves one request.
func (s *session) one(scratch []byte) error {
	s.need(requestHead)
	b, err := s.r.Next(requestHead)
	if err != nil {
		return err
	}
	q, err := parseRequest(b)
	if err != nil {
		return err
	}
	switch q.typ {
	case typeOpenChunk:
		return s.open(&q)
	case typeRebuild:
		return s.rebuild(&q)
	case typeExtend:
		return s.extend(&q)
	}
	v, err := s.take()
	if err != nil {
		return err
	}
	io := &v.io
	if q.typ == typeWrite {
		io = &s.io
	}
	s.need(int(q.runs) * runSize)
	if b, err = s.r.Next(int(q.runs) * runSize); err == nil {
		io.Runs, err = appendRuns(io.Runs[:0], b, int(q.runs), q.segs)
	}
	if err != nil {
		s.free <- v
		return unexpected(err)
	}
	io.Chunk, io.HeaderBytes = q.chunk, int(q.headerBytes)
	io.Segs, io.PageMask, io.Mem = int(q.segs), q.mask, io.Mem[:0]
	switch q.typ {
	case typeWrite:
		io.Headers = scratch[:io.Segs*io.HeaderBytes]
		err = s.write(&q, v)
	case typeRead:
		io.Headers = scratch[:io.Segs*io.HeaderBytes]
		err = s.b.BeginRead(io)
		err = s.read(&q, v, err)
	case typeReadHeaders:
		io.Headers = nil
		err = s.b.BeginReadHeaders(io)
		err = s.read(&q, v, err)
	}
	return err
}

// take waits for a reply that is free. A client that keeps to its window never
// makes it wait for long; one that does not is read no further.
func (s *session) take() (*served, error) {
	select {
	case v := <-s.free:
		return v, nil
	default:
	}
	s.w.Flush()
	select {
	case v := <-s.free:
		return v, nil
	case <-s.ended:
		return nil, s.stopped()
	}
}

// write receives a write's headers and pages and stores them.
func (s *session) write(q *request, v *served) error {
	io := &s.io
	size := bits.OnesCount32(q.mask) * transport.PageSize
	s.need(len(io.Headers))
	if err := s.r.ReadFull(io.Headers); err != nil {
		s.free <- v
		return unexpected(err)
	}
	refused := s.b.BeginWrite(io)
	s.need(size)
	var err error
	if refused != nil {
		err = s.r.Discard(size)
	} else if err = s.r.ReadInto(io.Mem); err != nil {
		s.b.AbortWrite(io)
	} else {
		refused = s.b.CommitWrite(io)
	}
	if err != nil {
		s.free <- v
		return unexpected(err)
	}
	return s.answer(q, v, refused)
}

// read answers a read whose Begin gave err.
func (s *session) read(q *request, v *served, err error) error {
	if err != nil {
		return s.answer(q, v, err)
	}
	v.read = true
	if err := s.w.Begin(); err != nil {
		v.Released()
		return err
	}
	p := reply{typ: typeReply, id: q.id, length: uint32(len(v.io.Headers))}
	for _, m := range v.io.Mem {
		p.length += uint32(len(m))
	}
	p.put(s.w.Bytes(replyHead))
	copy(s.w.Bytes(len(v.io.Headers)), v.io.Headers)
	for _, m := range v.io.Mem {
		s.w.Ref(m)
	}
	s.w.End(v)
	return nil
}

// answer appends a reply without payload.
func (s *session) answer(q *request, v *served, err error) error {
	if e := s.w.Begin(); e != nil {
		s.free <- v
		return e
	}
	p := reply{typ: typeReply, id: q.id, status: transport.StatusOf(err)}
	p.put(s.w.Bytes(replyHead))
	s.w.End(v)
	return nil
}

func (s *session) open(q *request) error {
	v, err := s.take()
	if err != nil {
		return err
	}
	s.need(openSize)
	b, err := s.r.Next(openSize)
	if err == nil {
		var spec transport.ChunkSpec
		if spec, err = parseOpen(b); err == nil {
			return s.answer(q, v, s.b.OpenChunk(q.chunk, spec))
		}
	}
	s.free <- v
	return unexpected(err)
}

// goaway tells the client why its session ended, and lets it read that: a
// close with unread input would reset the connection and lose it.
func (s *session) goaway(cause error) {
	if s.w.Begin() != nil {
		return
	}
	text := cause.Error()
	text = text[:min(len(text), maxText)]
	p := reply{typ: typeGoaway, status: transport.StatusOf(cause), length: uint32(len(text))}
	p.put(s.w.Bytes(replyHead))
	copy(s.w.Bytes(len(text)), text)
	s.w.End(nil)
	s.w.Flush()
	if t, ok := s.c.(*net.TCPConn); ok && s.w.Queued() == 0 {
		_ = s.c.SetReadDeadline(time.Now().Add(linger))
		if t.CloseWrite() == nil {
			_ = s.r.Discard(1 << 30) // until the client is gone, or the deadline
		}
	}
}

// linger is how long a server waits for a client to take note of a goaway.
const linger = 500 * time.Millisecond

// unexpected is the end of the stream inside of a frame.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("session stopped: %w", err)
	}
	return err
}
