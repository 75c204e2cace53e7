package floor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"dmps/transport/stream"
)

const (
	page       = 4096
	maxRequest = 128 << 10 // bytes of a request in front
	depth      = 256       // requests in flight
)

// Config of a Relay.
type Config struct {
	Size   int64    // bytes of the device
	Stores []string // addresses: K data members, then M more that get as much as the largest of them
	K      int
}

// Relay serves NBD clients of l, one connection after the other, until l is
// closed.
func Relay(l net.Listener, cfg Config) error {
	if cfg.K < 1 || cfg.K > len(cfg.Stores) {
		return fmt.Errorf("floor: %d data members of %d stores", cfg.K, len(cfg.Stores))
	}
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("floor: accepting a connection: %w", err)
		}
		// Clients leave as they like, in the middle of the handshake too.
		_ = serveRelay(c, cfg)
	}
}

// relay is one NBD connection and its connections to all stores.
type relay struct {
	cfg   Config
	front *stream.Writer
	back  []*back
	calls [depth]call
	free  chan *call
}

type back struct {
	c net.Conn
	r *stream.Reader
	w *stream.Writer
}

// call is a request in flight.
type call struct {
	r      *relay
	id     uint64
	handle uint64
	read   bool
	n      uint32
	left   atomic.Int32 // stores that have not answered
	buf    []byte
}

// Released gives the call back when the front's socket has its answer.
func (k *call) Released() { k.r.free <- k }

func serveRelay(c net.Conn, cfg Config) error {
	defer c.Close()
	if err := handshake(c, cfg.Size); err != nil {
		return err
	}
	in, out, err := streams(c)
	if err != nil {
		return err
	}
	defer out.Close()
	r := &relay{cfg: cfg, front: out, free: make(chan *call, depth)}
	for i := range r.calls {
		k := &r.calls[i]
		k.r, k.id, k.buf = r, uint64(i), make([]byte, maxRequest)
		r.free <- k
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, addr := range cfg.Stores {
		bc, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		defer bc.Close()
		b := &back{c: bc}
		if b.r, b.w, err = streams(bc); err != nil {
			return err
		}
		defer b.w.Close()
		r.back = append(r.back, b)
		wg.Go(func() {
			_ = r.replies(b) // the measurement is over, or failed: fio says so
			c.Close()
		})
	}
	return r.requests(in)
}

// requests reads what the NBD client asks and sends it on.
func (r *relay) requests(in *stream.Reader) error {
	const head = 28
	var vec [1][]byte
	for {
		if in.Buffered() < head {
			r.flush()
		}
		b, err := in.Next(head)
		if err != nil {
			return err
		}
		kind, handle := binary.BigEndian.Uint16(b[6:]), binary.BigEndian.Uint64(b[8:])
		off, n := binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint32(b[24:])
		switch {
		case kind == 2: // disconnect
			return nil
		case kind > 1 || n == 0 || n > maxRequest || n%page != 0 || off+uint64(n) > uint64(r.cfg.Size):
			return fmt.Errorf("floor: request %d for %d bytes at %d", kind, n, off)
		}
		var k *call
		select {
		case k = <-r.free:
		default:
			r.flush()
			k = <-r.free
		}
		k.handle, k.read, k.n = handle, kind == 0, n
		if k.read {
			k.left.Store(1)
			col := int(off/maxRequest) % r.cfg.K
			if r.cfg.K == 1 { // a mirror reads any
				col = int(off/maxRequest) % len(r.back)
			}
			if err := r.send(col, k, opRead, off, nil); err != nil {
				return err
			}
			continue
		}
		if in.Buffered() < int(n) {
			r.flush()
		}
		vec[0] = k.buf[:n]
		if err := in.ReadInto(vec[:]); err != nil {
			return err
		}
		if err := r.write(k, off); err != nil {
			return err
		}
	}
}

// write spreads a call's pages over the data members, column by column, and
// gives the others as many bytes as the first of them gets.
func (r *relay) write(k *call, off uint64) error {
	pages := int(k.n) / page
	rows := (pages + r.cfg.K - 1) / r.cfg.K
	cols := (pages + rows - 1) / rows
	k.left.Store(int32(cols + len(r.back) - r.cfg.K))
	at := off / uint64(r.cfg.K) / page * page
	for i := range cols {
		if err := r.send(i, k, opWrite, at, k.buf[i*rows*page:min((i+1)*rows*page, int(k.n))]); err != nil {
			return err
		}
	}
	for i := r.cfg.K; i < len(r.back); i++ {
		if err := r.send(i, k, opWrite, at, k.buf[:rows*page]); err != nil {
			return err
		}
	}
	return nil
}

func (r *relay) send(i int, k *call, op uint32, off uint64, data []byte) error {
	w := r.back[i].w
	if err := w.Begin(); err != nil {
		return err
	}
	q := request{op: op, length: k.n, off: off, id: k.id}
	if op == opWrite {
		q.length = uint32(len(data))
	}
	q.put(w.Bytes(requestLen))
	w.Ref(data)
	w.End(nil)
	return nil
}

func (r *relay) flush() {
	for _, b := range r.back {
		b.w.Flush()
	}
	r.front.Flush()
}

// replies reads what a store answers; the last answer to a call answers it.
func (r *relay) replies(b *back) error {
	var vec [1][]byte
	for {
		if b.r.Buffered() < replyLen {
			r.front.Flush()
		}
		h, err := b.r.Next(replyLen)
		if err != nil {
			return err
		}
		k := &r.calls[binary.BigEndian.Uint64(h)%depth]
		if k.read {
			if b.r.Buffered() < int(k.n) {
				r.front.Flush()
			}
			vec[0] = k.buf[:k.n]
			if err := b.r.ReadInto(vec[:]); err != nil {
				return err
			}
		}
		if k.left.Add(-1) > 0 {
			continue
		}
		if err := r.front.Begin(); err != nil {
			return err
		}
		p := r.front.Bytes(16)
		binary.BigEndian.PutUint32(p, 0x67446698)
		binary.BigEndian.PutUint32(p[4:], 0)
		binary.BigEndian.PutUint64(p[8:], k.handle)
		if k.read {
			r.front.Ref(k.buf[:k.n])
		}
		r.front.End(k)
	}
}
