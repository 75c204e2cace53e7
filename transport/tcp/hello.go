package tcp

import (
	"errors"
	"fmt"
	"io"

	"dmps/transport"
)

// magic begins both directions. Like PNG's it shows a text-mode transfer, and
// a peer that speaks something else, in its first bytes.
const magic = "DMPS\x00\r\n\x1a"

const (
	prefixSize = 16
	maxHello   = 1024 // bytes after the prefix
	maxWindow  = 4096 // requests in flight; a slot number has to fit into an id
	maxName    = 255
)

// encodeHello is the client's first message.
func encodeHello(h transport.Hello) ([]byte, error) {
	if len(h.Cluster) > maxName || len(h.Client) > maxName {
		return nil, fmt.Errorf("names of %d and %d bytes in hello, at most %d", len(h.Cluster), len(h.Client), maxName)
	}
	if len(h.Auth) != 0 {
		return nil, errors.New("authentication data in hello: no scheme is defined")
	}
	version := versionOf(h)
	if version == transport.VersionRails && (h.Rail.Session == 0 || h.Rail.Attempt == 0 || h.Rail.Index >= transport.MaxRails || h.Mode != transport.ModeOwner) {
		return nil, fmt.Errorf("rail %d in hello, of at most %d of an owner", h.Rail.Index, transport.MaxRails)
	}
	b := append(make([]byte, 0, 256), magic...)
	b = le.AppendUint16(b, version) // lowest: what the client needs
	b = le.AppendUint16(b, version) // highest
	b = le.AppendUint32(b, 0)       // length, below
	b = le.AppendUint64(b, h.Volume)
	b = le.AppendUint64(b, h.Epoch)
	b = le.AppendUint64(b, h.Incarnation)
	b = append(b, byte(h.Mode))
	b = appendString(b, h.Cluster)
	b = appendString(b, h.Client)
	b = le.AppendUint16(b, 0) // auth
	if version == transport.VersionRails {
		b = le.AppendUint64(b, h.Rail.Session)
		b = le.AppendUint32(b, h.Rail.Attempt)
		b = append(b, h.Rail.Index, 0)
		if h.Rail.Join {
			b[len(b)-1] = railJoin
		}
	}
	le.PutUint32(b[12:], uint32(len(b)-prefixSize))
	return b, nil
}

// railJoin is the only flag of a rail.
const railJoin = 1

// versionOf is the version that a session needs. Those without rails speak the
// first one, with servers of any age.
func versionOf(h transport.Hello) uint16 {
	if h.Rail != (transport.Rail{}) {
		return transport.VersionRails
	}
	return transport.Version
}

func appendString(b []byte, s string) []byte {
	return append(le.AppendUint16(b, uint16(len(s))), s...)
}

// cursor takes fields off a message; bad is set when it was too short.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if n > len(c.b) {
		c.bad = true
		return make([]byte, min(n, 8))
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}

func (c *cursor) text(limit int) string {
	n := int(le.Uint16(c.take(2)))
	if n > limit || n > len(c.b) {
		c.bad = true
		return ""
	}
	return string(c.take(n))
}

// decodeHello reads the client's first message. An error that wraps
// ErrRefused is to be answered; another one is not from a client of ours.
func decodeHello(r io.Reader) (transport.Hello, error) {
	var h transport.Hello
	var p [prefixSize]byte
	if _, err := io.ReadFull(r, p[:]); err != nil {
		return h, fmt.Errorf("reading hello: %w", err)
	}
	if string(p[:8]) != magic {
		return h, fmt.Errorf("%w: not a hello", errFrame)
	}
	lo, hi, n := le.Uint16(p[8:]), le.Uint16(p[10:]), le.Uint32(p[12:])
	if n > maxHello {
		return h, fmt.Errorf("%w: hello of %d bytes", errFrame, n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return h, fmt.Errorf("reading hello: %w", err)
	}
	if lo > transport.VersionRails || hi < transport.Version || lo > hi {
		return h, fmt.Errorf("%w: client speaks versions %d to %d, this server %d to %d", transport.ErrRefused, lo, hi, transport.Version, transport.VersionRails)
	}
	c := cursor{b: body}
	h.Volume = le.Uint64(c.take(8))
	h.Epoch = le.Uint64(c.take(8))
	h.Incarnation = le.Uint64(c.take(8))
	h.Mode = transport.Mode(c.take(1)[0])
	h.Cluster = c.text(maxName)
	h.Client = c.text(maxName)
	auth := le.Uint16(c.take(2))
	if !c.bad && auth != 0 {
		return h, fmt.Errorf("%w: authentication is not supported", transport.ErrRefused)
	}
	var flags byte
	if hi >= transport.VersionRails {
		h.Rail.Session = le.Uint64(c.take(8))
		h.Rail.Attempt = le.Uint32(c.take(4))
		h.Rail.Index = c.take(1)[0]
		flags = c.take(1)[0]
		h.Rail.Join = flags == railJoin
	}
	switch {
	case c.bad || len(c.b) != 0:
		return h, fmt.Errorf("%w: hello", errFrame)
	case h.Mode > transport.ModeReader:
		return h, fmt.Errorf("%w: unknown mode %d", transport.ErrRefused, h.Mode)
	case hi >= transport.VersionRails && (h.Rail.Session == 0 || h.Rail.Attempt == 0 || h.Rail.Index >= transport.MaxRails || flags > railJoin || h.Mode != transport.ModeOwner):
		return h, fmt.Errorf("%w: rail of a hello", errFrame)
	}
	return h, nil
}

// encodeWelcome is the server's answer that admits, in the version of the session.
func encodeWelcome(w transport.Welcome, version uint16) []byte {
	b := append(make([]byte, 0, 256), magic...)
	b = le.AppendUint16(b, version)
	b = append(b, byte(transport.StatusOK), 0)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, w.Incarnation)
	b = le.AppendUint32(b, uint32(w.Window))
	b = appendString(b, w.Server[:min(len(w.Server), maxName)])
	le.PutUint32(b[12:], uint32(len(b)-prefixSize))
	return b
}

// encodeRefusal is the server's answer that does not.
func encodeRefusal(err error) []byte {
	text := err.Error()
	b := append(make([]byte, 0, 256), magic...)
	b = le.AppendUint16(b, transport.Version)
	b = append(b, byte(transport.StatusOf(err)), 0)
	b = le.AppendUint32(b, 0)
	b = appendString(b, text[:min(len(text), maxText)])
	le.PutUint32(b[12:], uint32(len(b)-prefixSize))
	return b
}

// refusal is a handshake that the server refused: its text, and the sentinel.
type refusal struct {
	status transport.Status
	text   string
}

func (r *refusal) Error() string { return "memory server refused the session: " + r.text }
func (r *refusal) Unwrap() error { return r.status.Err() }

// decodeWelcome reads the server's answer to a hello of that version.
func decodeWelcome(r io.Reader, asked uint16) (transport.Welcome, error) {
	var w transport.Welcome
	var p [prefixSize]byte
	if _, err := io.ReadFull(r, p[:]); err != nil {
		return w, fmt.Errorf("reading welcome: %w", err)
	}
	if string(p[:8]) != magic {
		return w, fmt.Errorf("%w: not a memory server", errFrame)
	}
	version, status, n := le.Uint16(p[8:]), transport.Status(p[10]), le.Uint32(p[12:])
	if n > maxHello || p[11] != 0 || !status.Valid() {
		return w, fmt.Errorf("%w: welcome", errFrame)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return w, fmt.Errorf("reading welcome: %w", err)
	}
	c := cursor{b: body}
	if status != transport.StatusOK {
		text := c.text(maxText)
		if c.bad || len(c.b) != 0 {
			return w, fmt.Errorf("%w: refusal", errFrame)
		}
		return w, &refusal{status, text}
	}
	w.Incarnation = le.Uint64(c.take(8))
	window := le.Uint32(c.take(4))
	w.Server = c.text(maxName)
	if c.bad || len(c.b) != 0 || window < 1 || window > maxWindow {
		return w, fmt.Errorf("%w: welcome", errFrame)
	}
	if version != asked {
		return w, fmt.Errorf("%w: server chose version %d, this client asked for %d", transport.ErrRefused, version, asked)
	}
	w.Window = int(window)
	return w, nil
}
