package paper

import (
	"dmps/chaos/figures"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// MessageRow is the bandwidth of messages of one size between two processes.
type MessageRow struct {
	Network string `json:"network"` // tcp or unix
	Way     string `json:"way"`     // PingPong or Stream
	Size    int    `json:"size"`    // bytes of a message
	Count   int    `json:"count"`   // messages sent
	figures.Moved
}

// Ways to send messages.
const (
	PingPong = "ping-pong" // the next is sent when the last was answered with as many bytes; counted once a round trip
	Stream   = "stream"    // one after another, and one answer after the last
)

// maxMessage bounds what a peer may ask the sink to allocate.
const maxMessage = 16 << 20

// messageHead asks for a measurement: how many messages of which size, and
// whether each is answered. 16 bytes: size, way, count.
const messageHead = 16

// ServeMessages is the other side of MeasureMessages: it takes connections
// until l is closed. The first error of a connection ends that connection only:
// its peer sees it and reports it.
func ServeMessages(l net.Listener) error {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("messages: %w", err)
		}
		go func() {
			defer c.Close()
			_ = takeMessages(c) // the peer finds the connection closed
		}()
	}
}

func takeMessages(c net.Conn) error {
	var head [messageHead]byte
	for {
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return err
		}
		size, pong := binary.BigEndian.Uint32(head[:]), binary.BigEndian.Uint32(head[4:]) == 1
		count := binary.BigEndian.Uint64(head[8:])
		if size == 0 || size > maxMessage {
			return fmt.Errorf("a message of %d bytes", size)
		}
		buf := make([]byte, size)
		for range count {
			if _, err := io.ReadFull(c, buf); err != nil {
				return err
			}
			if pong {
				if _, err := c.Write(buf); err != nil {
					return err
				}
			}
		}
		if !pong {
			if _, err := c.Write(buf[:1]); err != nil {
				return err
			}
		}
	}
}

// MeasureMessages sends messages of one size over c, whose peer is in
// ServeMessages, for about d: a short run tells how many that are.
func MeasureMessages(c net.Conn, way string, size int, d time.Duration) (MessageRow, error) {
	row := MessageRow{Network: c.RemoteAddr().Network(), Way: way, Size: size}
	buf := make([]byte, size)
	NewContent(uint64(size)).noiseInto(buf)
	for count := 1; ; {
		took, err := sendMessages(c, way, buf, count)
		if err != nil {
			return row, fmt.Errorf("messages of %d bytes, %s: %w", size, way, err)
		}
		if took >= d/2 {
			row.Count, row.Moved = count, figures.Moved{Bytes: int64(size) * int64(count), Seconds: took.Seconds()}
			return row, nil
		}
		// At most eightfold at once: the first messages are slow.
		count = min(count*8, int(float64(count)*float64(d)/float64(max(took, time.Microsecond)))+1)
	}
}

func sendMessages(c net.Conn, way string, buf []byte, count int) (time.Duration, error) {
	var head [messageHead]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(buf)))
	if way == PingPong {
		binary.BigEndian.PutUint32(head[4:], 1)
	}
	binary.BigEndian.PutUint64(head[8:], uint64(count))
	if _, err := c.Write(head[:]); err != nil {
		return 0, err
	}
	back := make([]byte, len(buf))
	start := time.Now()
	for range count {
		if _, err := c.Write(buf); err != nil {
			return 0, err
		}
		if way == PingPong {
			if _, err := io.ReadFull(c, back); err != nil {
				return 0, err
			}
		}
	}
	if way != PingPong {
		if _, err := io.ReadFull(c, back[:1]); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// noiseInto fills b with random bytes, without stamps.
func (c *Content) noiseInto(b []byte) {
	for n := 0; n < len(b); {
		n += copy(b[n:], c.noise)
	}
}
