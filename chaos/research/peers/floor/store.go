package floor

import (
	"errors"
	"fmt"
	"io"
	"net"

	"encoding/binary"

	"dmps/transport/stream"
)

// Store serves size bytes of memory to every connection of l until l is
// closed.
func Store(l net.Listener, size int64) error {
	mem := make([]byte, size)
	for i := range mem {
		mem[i] = byte(i>>12) | 1 // touched: nothing faults while it is measured
	}
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("floor: accepting a connection: %w", err)
		}
		go func() {
			// The peer of a measurement goes away when it likes.
			_ = serveStore(c, mem)
		}()
	}
}

func serveStore(c net.Conn, mem []byte) error {
	defer c.Close()
	r, w, err := streams(c)
	if err != nil {
		return err
	}
	defer w.Close()
	var vec [1][]byte
	for {
		if r.Buffered() < requestLen {
			w.Flush()
		}
		b, err := r.Next(requestLen)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		q := parseRequest(b)
		if q.off+uint64(q.length) > uint64(len(mem)) {
			return fmt.Errorf("floor: %d bytes at %d of %d", q.length, q.off, len(mem))
		}
		data := mem[q.off : q.off+uint64(q.length)]
		if q.op == opWrite {
			if r.Buffered() < len(data) {
				w.Flush()
			}
			vec[0] = data
			if err := r.ReadInto(vec[:]); err != nil {
				return err
			}
		}
		if err := w.Begin(); err != nil {
			return err
		}
		binary.BigEndian.PutUint64(w.Bytes(replyLen), q.id)
		if q.op == opRead {
			w.Ref(data)
		}
		w.End(nil)
	}
}

// socketBuffer is the send buffer of every socket, in bytes, as in dmps.
const socketBuffer = 512 << 10

func streams(c net.Conn) (*stream.Reader, *stream.Writer, error) {
	if b, ok := c.(interface{ SetWriteBuffer(int) error }); ok {
		_ = b.SetWriteBuffer(socketBuffer) // a failure leaves a slower socket
	}
	r, err := stream.NewReader(c, stream.DefaultStage)
	if err != nil {
		return nil, nil, err
	}
	w, err := stream.NewWriter(c)
	if err != nil {
		return nil, nil, err
	}
	return r, w, nil
}
