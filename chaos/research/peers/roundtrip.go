package peers

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// RoundTrip is the time of a plain TCP exchange over loopback between two Go
// processes, one at a time, without any protocol: what no page-in over TCP
// can be faster than, as long as it is written in Go and one process asks another.
type RoundTrip struct {
	Request int           `json:"request"` // bytes sent
	Reply   int           `json:"reply"`   // bytes received
	Round   int           `json:"round"`
	P50     time.Duration `json:"p50_ns"`
	P99     time.Duration `json:"p99_ns"`
}

// A request is at least this long: the size of an NBD request, and room
// for the two sizes at its start.
const minRequest = 28

const maxExchange = 1 << 20 // bytes of a request or reply

// Echo answers exchanges on a loopback port until its parent closes its
// standard input. It is the other process of a round trip.
func Echo(stdin io.Reader, stdout io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(stdout, l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	go func() {
		// Only the end of the stream matters: then the parent is gone or done.
		_, _ = io.Copy(io.Discard, stdin)
		l.Close()
	}()
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := serveEcho(c); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
}

// serveEcho reads requests, whose first eight bytes are the sizes of the request
// and of the reply, and writes replies, until the peer closes.
func serveEcho(c net.Conn) error {
	defer c.Close()
	buf := make([]byte, maxExchange)
	for {
		if _, err := io.ReadFull(c, buf[:minRequest]); err != nil {
			return err
		}
		request, reply := int(binary.BigEndian.Uint32(buf)), int(binary.BigEndian.Uint32(buf[4:]))
		if request < minRequest || request > maxExchange || reply > maxExchange {
			return fmt.Errorf("echo: sizes %d and %d", request, reply)
		}
		if _, err := io.ReadFull(c, buf[minRequest:request]); err != nil {
			return err
		}
		if _, err := c.Write(buf[:reply]); err != nil {
			return err
		}
	}
}

// MeasureRoundTrip starts echo, an argv whose process calls Echo, and exchanges
// messages with it for the given time.
func MeasureRoundTrip(ctx context.Context, echo []string, request, reply int, d time.Duration) (RoundTrip, error) {
	cmd := exec.CommandContext(ctx, echo[0], echo[1:]...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return RoundTrip{}, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return RoundTrip{}, err
	}
	if err := cmd.Start(); err != nil {
		return RoundTrip{}, fmt.Errorf("round trip: %w", err)
	}
	rt, err := exchange(stdout, request, reply, d)
	if err := errors.Join(err, stdin.Close(), cmd.Wait()); err != nil {
		return RoundTrip{}, fmt.Errorf("round trip: %w", err)
	}
	return rt, nil
}

func exchange(echo io.Reader, request, reply int, d time.Duration) (RoundTrip, error) {
	addr, err := bufio.NewReader(echo).ReadString('\n')
	if err != nil {
		return RoundTrip{}, err
	}
	c, err := net.Dial("tcp", strings.TrimSpace(addr))
	if err != nil {
		return RoundTrip{}, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(d + 10*time.Second)); err != nil {
		return RoundTrip{}, err
	}
	request = max(request, minRequest)
	out, in := make([]byte, request), make([]byte, reply)
	binary.BigEndian.PutUint32(out, uint32(request))
	binary.BigEndian.PutUint32(out[4:], uint32(reply))

	const warmUp = 500
	var took []time.Duration
	start := time.Now()
	for n := 0; n < 2*warmUp || time.Since(start) < d; n++ {
		t0 := time.Now()
		if _, err := c.Write(out); err != nil {
			return RoundTrip{}, err
		}
		if _, err := io.ReadFull(c, in); err != nil {
			return RoundTrip{}, err
		}
		if n >= warmUp {
			took = append(took, time.Since(t0))
		}
	}
	slices.Sort(took)
	return RoundTrip{Request: request, Reply: reply, P50: took[len(took)/2], P99: took[len(took)*99/100]}, nil
}
