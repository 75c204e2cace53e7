package fabric

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Questions over the link (tcp.Link), by their first byte. All integers are
// little endian; text is a u16 length and as many bytes.
const (
	askAttach = 1 // makes an endpoint on the server
	askMap    = 2 // asks for the keys of a chunk
	askEcho   = 3 // asks for some bytes, to see how long that takes
)

const (
	protocol   = 2
	maxName    = 64  // bytes: provider, bell
	maxHost    = 64  // bytes: an IP address, with a zone perhaps
	maxAddress = 256 // bytes: an endpoint's, as the provider has it
)

var (
	le           = binary.LittleEndian
	errMessage   = errors.New("malformed message")
	errProtocols = errors.New("the peer speaks another protocol of one-sided transfers")
)

// attach asks for an endpoint.
type attach struct {
	provider string // short name
	host     string // the server's address, as the link has it
	bell     string // where a bell is (bell.name), or empty
	addr     []byte // of the client's endpoint
}

func (a *attach) put() []byte {
	b := []byte{askAttach, protocol}
	b = appendText(b, a.provider)
	b = appendText(b, a.host)
	b = appendText(b, a.bell)
	return appendText(b, string(a.addr))
}

func parseAttach(b []byte) (attach, error) {
	c := cursor{b: b}
	if c.byte() != askAttach {
		c.bad = true
	}
	if v := c.byte(); !c.bad && v != protocol {
		return attach{}, fmt.Errorf("%w: %d, not %d", errProtocols, v, protocol)
	}
	a := attach{provider: c.text(maxName), host: c.text(maxHost), bell: c.text(maxName), addr: []byte(c.text(maxAddress))}
	return a, c.end("attach")
}

// key is memory of the server that the client may reach.
type key struct{ addr, key uint64 }

// attached is the answer to attach.
type attached struct {
	addr  []byte // of the server's endpoint
	probe key    // 8 bytes that hold nonce
	nonce uint64
}

func (a *attached) put() []byte {
	b := []byte{protocol}
	b = appendText(b, string(a.addr))
	b = appendKey(b, a.probe)
	return le.AppendUint64(b, a.nonce)
}

func parseAttached(b []byte) (attached, error) {
	c := cursor{b: b}
	if v := c.byte(); !c.bad && v != protocol {
		return attached{}, fmt.Errorf("%w: %d, not %d", errProtocols, v, protocol)
	}
	a := attached{addr: []byte(c.text(maxAddress)), probe: c.key(), nonce: c.u64()}
	return a, c.end("attached")
}

// putMap asks for the keys of a chunk.
func putMap(chunk uint64) []byte { return le.AppendUint64([]byte{askMap}, chunk) }

func parseMap(b []byte) (chunk uint64, err error) {
	c := cursor{b: b}
	if c.byte() != askMap {
		c.bad = true
	}
	chunk = c.u64()
	return chunk, c.end("map")
}

// putEcho asks for n bytes, at most tcp.MaxExtend.
func putEcho(n int) []byte { return le.AppendUint16([]byte{askEcho}, uint16(n)) }

func parseEcho(b []byte) (n int, err error) {
	c := cursor{b: b}
	if c.byte() != askEcho {
		c.bad = true
	}
	n = int(le.Uint16(c.take(2)))
	return n, c.end("echo")
}

// mapped is the answer to putMap.
type mapped struct {
	slots       uint32
	headerBytes uint32
	pages       key
	headers     key
}

func (m *mapped) put() []byte {
	b := le.AppendUint32(nil, m.slots)
	b = le.AppendUint32(b, m.headerBytes)
	b = appendKey(b, m.pages)
	b = appendKey(b, m.headers)
	return b
}

func parseMapped(b []byte) (mapped, error) {
	c := cursor{b: b}
	m := mapped{slots: c.u32(), headerBytes: c.u32(), pages: c.key(), headers: c.key()}
	return m, c.end("mapped")
}

func appendText(b []byte, s string) []byte {
	return append(le.AppendUint16(b, uint16(len(s))), s...)
}

func appendKey(b []byte, k key) []byte {
	return le.AppendUint64(le.AppendUint64(b, k.addr), k.key)
}

// cursor takes fields off a message; bad is set when it was too short.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if n > len(c.b) {
		c.bad, c.b = true, nil
		return make([]byte, min(n, 8))
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}

func (c *cursor) byte() byte  { return c.take(1)[0] }
func (c *cursor) u32() uint32 { return le.Uint32(c.take(4)) }
func (c *cursor) u64() uint64 { return le.Uint64(c.take(8)) }
func (c *cursor) key() key    { return key{c.u64(), c.u64()} }

func (c *cursor) text(limit int) string {
	n := int(le.Uint16(c.take(2)))
	if n > limit || n > len(c.b) {
		c.bad = true
		return ""
	}
	return string(c.take(n))
}

func (c *cursor) end(what string) error {
	if c.bad || len(c.b) != 0 {
		return fmt.Errorf("%w: %s", errMessage, what)
	}
	return nil
}
