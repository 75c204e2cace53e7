package tcp

import (
	"context"
	"errors"
	"fmt"
	"net"

	"dmps/transport"
)

// MaxExtend bounds the question of Link.Extend and its answer, in bytes.
const MaxExtend = 1024

// Link is what the Conns of this package are besides: a medium that moves pages
// in another way (package fabric) sets itself up over one, and leaves to it what
// it does not do itself.
type Link interface {
	transport.Conn
	// Extend asks the server's Session, which must be an Extender. Errors:
	// ErrRefused (also: it is none), ErrClosed, or another sentinel that the
	// Extender returned. question is 1 to MaxExtend bytes, and not kept.
	Extend(ctx context.Context, question []byte) (answer []byte, err error)
	// LocalAddr and RemoteAddr are those of the connection.
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
}

var _ Link = (*conn)(nil)

// Extender is a transport.Session that answers Link.Extend. It is called like
// the other methods of Session: by one goroutine at a time. question is not to
// be kept; the answer is at most MaxExtend bytes. An error reaches the client
// as its sentinel.
type Extender interface {
	Extend(question []byte) (answer []byte, err error)
}

// Extend implements Link.
func (c *conn) Extend(ctx context.Context, question []byte) ([]byte, error) {
	if len(question) < 1 || len(question) > MaxExtend {
		return nil, fmt.Errorf("question of %d bytes", len(question))
	}
	q := request{typ: typeExtend, segs: uint32(len(question))}
	k := &call{kind: callExtend}
	if err := c.do(ctx, k, q, func() { copy(c.w.Bytes(len(question)), question) }); err != nil {
		return nil, err
	}
	return k.extended, nil
}

// LocalAddr implements Link.
func (c *conn) LocalAddr() net.Addr { return c.nc.LocalAddr() }

// RemoteAddr implements Link.
func (c *conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

var errNoExtender = fmt.Errorf("%w: this server extends nothing", transport.ErrRefused)

// extend receives a question and answers it.
func (s *session) extend(q *request) error {
	v, err := s.take()
	if err != nil {
		return err
	}
	s.need(int(q.segs))
	b, err := s.r.Next(int(q.segs))
	if err != nil {
		s.free <- v
		return unexpected(err)
	}
	x, ok := s.b.(Extender)
	if !ok {
		return s.answer(q, v, errNoExtender)
	}
	answer, err := x.Extend(b)
	if err == nil && len(answer) > MaxExtend {
		err = errors.New("the answer is too long")
	}
	if err != nil {
		return s.answer(q, v, err)
	}
	if err := s.w.Begin(); err != nil {
		s.free <- v
		return err
	}
	p := reply{typ: typeReply, id: q.id, length: uint32(len(answer))}
	p.put(s.w.Bytes(replyHead))
	if len(answer) > 0 {
		copy(s.w.Bytes(len(answer)), answer)
	}
	s.w.End(v)
	return nil
}
