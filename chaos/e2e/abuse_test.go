package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"dmps/internal/nbdclient"
)

// doors are all addresses where the cluster listens, as far as it tells them.
func (c *cluster) doors() map[string][2]string {
	c.t.Helper()
	nbd, err := nbdclient.ParseURI(c.NBD)
	must(c.t, err)
	doors := map[string][2]string{"nbd": {nbd.Network, nbd.Address}}
	for _, s := range c.Servers {
		doors[s.ID] = [2]string{"tcp", s.Addr}
	}
	web := map[string]string{"admin": c.Client.Admin}
	for _, m := range c.Meta {
		web[m.ID] = m.API
		// Raft's own port is an argument of the node.
		for i, a := range m.Argv {
			if strings.Contains(a, "raft") && strings.Contains(a, "=") {
				_, a, _ = strings.Cut(a, "=")
				doors[m.ID+" raft"] = [2]string{"tcp", a}
			} else if strings.Contains(a, "raft") && i+1 < len(m.Argv) {
				doors[m.ID+" raft"] = [2]string{"tcp", m.Argv[i+1]}
			}
		}
	}
	for name, api := range web {
		u, err := url.Parse(api)
		if err != nil || u.Host == "" {
			c.t.Fatalf("%s has no address: %q", name, api)
		}
		doors[name] = [2]string{"tcp", u.Host}
	}
	return doors
}

// garbage is what is thrown at a door.
func garbage(rng *rand.ChaCha8, greeting []byte) [][]byte {
	random := make([]byte, 256<<10)
	if _, err := rng.Read(random); err != nil {
		panic(err) // ChaCha8 has no errors
	}
	ones := bytes.Repeat([]byte{0xff}, 64<<10)
	messages := [][]byte{
		{}, {0}, random[:1], random[:7], random[:64], random[:4096], random,
		ones, make([]byte, 64<<10),
		[]byte("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n"),
		[]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + string(random[:1000])),
		// Behind an NBD client's greeting: an option, and a request, of absurd length.
		append(binary.BigEndian.AppendUint32(nil, 3), "IHAVEOPT\x00\x00\x00\x07\xff\xff\xff\xff"...),
		append(binary.BigEndian.AppendUint32(nil, 0), random[:100]...),
	}
	// Behind the magic of the transport: absurd lengths, and a well-formed hello of another
	// cluster's client whose epoch is newer than any (docs/wire.md).
	for _, h := range []string{
		"030003 00ffffffff", "0300030000040000", "ffff00002a000000", "0300030024000000" + "0100000000000000" + "ffffffffffffff7f" +
			"0000000000000000" + "00" + "0200" + "6331" + "0300" + "626f62" + "0000",
	} {
		b, err := hex.DecodeString("444d5053000d0a1a" + strings.ReplaceAll(h, " ", ""))
		if err != nil {
			panic(err) // it is written above
		}
		messages = append(messages, append(b, random[:1000]...))
	}
	if len(greeting) > 0 {
		// What the other side says itself, said back to it, whole, damaged, and cut off.
		damaged := bytes.Clone(greeting)
		damaged[len(damaged)/2] ^= 0x80
		messages = append(messages, greeting, damaged, greeting[:len(greeting)/2], append(bytes.Clone(greeting), ones...))
	}
	return messages
}

// knock throws each message at a door, on a connection of its own.
func knock(ctx context.Context, network, addr string, seed byte) error {
	dial := func() (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err == nil {
			err = c.SetDeadline(time.Now().Add(500 * time.Millisecond))
		}
		return c, err
	}
	c, err := dial()
	if err != nil {
		return err
	}
	greeting := make([]byte, 512)
	n, _ := c.Read(greeting) // many wait for the other side to begin
	c.Close()
	for _, m := range garbage(rand.NewChaCha8([32]byte{seed}), greeting[:n]) {
		c, err := dial()
		if err != nil {
			return err
		}
		// That the other side hangs up in the middle is what it should do.
		_, _ = c.Write(m)
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, _ = io.Copy(io.Discard, c)
		c.Close()
	}
	return nil
}

// Garbage at every port, at once, while a load runs: nobody else notices.
func TestGarbageAtEveryPort(t *testing.T) {
	c := start(t, threeMeta, small)
	ld := c.startLoad()
	doors := c.doors()
	if len(doors) < 1+6+3+1+3 {
		t.Errorf("only these ports were found: %v", doors)
	}
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	var wg sync.WaitGroup
	for name, d := range doors {
		wg.Go(func() {
			if err := knock(ctx, d[0], d[1], byte(len(name))); err != nil {
				t.Errorf("%s at %s: %v", name, d[1], err)
			}
		})
	}
	wg.Wait()
	ld.more(2000)
	ld.flawless()
	c.allAlive()
	if _, code := c.status(); code != healthy {
		t.Errorf("status exits with %d", code)
	}
}

// Garbage of a client that was let in. It may be hung up on; the others not.
func TestGarbageBehindTheHandshake(t *testing.T) {
	c := start(t, small)
	ld := c.startLoad()
	rng := rand.NewChaCha8([32]byte{9})
	random := make([]byte, mib)
	if _, err := rng.Read(random); err != nil {
		t.Fatal(err)
	}
	badMagic := nbdWrite(0, 4096)
	badMagic[0] ^= 1
	unknown := nbdWrite(0, 0)
	unknown[7] = 99
	for _, m := range [][]byte{
		random, badMagic, append(unknown, random...), append(nbdWrite(0, 1<<32-1), random...),
		append(nbdWrite(1<<64-4096, 8192), random...), make([]byte, mib), bytes.Repeat([]byte{0xff}, mib),
	} {
		raw := c.rawNBD()
		must(t, raw.SetDeadline(time.Now().Add(2*time.Second)))
		_, _ = raw.Write(m) // being hung up on is right
		if tcp, ok := raw.(interface{ CloseWrite() error }); ok {
			_ = tcp.CloseWrite()
		}
		if _, err := io.Copy(io.Discard, raw); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after % x...: the server neither answers to the end nor hangs up", m[:8])
		}
	}
	ld.more(2000)
	ld.flawless()
	c.allAlive()
}

// Connections that are opened and left alone, more than anybody needs, must not
// keep others out.
func TestIdleConnections(t *testing.T) {
	c := start(t, small)
	ld := c.startLoad()
	for name, d := range c.doors() {
		for range 50 {
			conn, err := net.DialTimeout(d[0], d[1], 5*time.Second)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			defer conn.Close()
		}
	}
	ld.more(2000)
	if _, err := c.dial().ReadAt(make([]byte, 4096), 0); err != nil {
		t.Errorf("a new connection: %v", err)
	}
	ld.flawless()
	c.allAlive()
}

// rawNBD negotiates the default export by hand, for what no client would send.
func (c *cluster) rawNBD() net.Conn {
	c.t.Helper()
	addr, err := nbdclient.ParseURI(c.NBD)
	must(c.t, err)
	conn, err := net.Dial(addr.Network, addr.Address)
	must(c.t, err)
	c.t.Cleanup(func() { conn.Close() })
	must(c.t, conn.SetDeadline(time.Now().Add(commandLimit)))
	greeting := make([]byte, 18)
	if _, err := io.ReadFull(conn, greeting); err != nil || string(greeting[:8]) != "NBDMAGIC" {
		c.t.Fatalf("greeting %q, %v", greeting, err)
	}
	// Fixed newstyle without the 124 zeros, then NBD_OPT_EXPORT_NAME of "".
	hello := binary.BigEndian.AppendUint32(nil, 3)
	hello = append(hello, "IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00"...)
	_, err = conn.Write(hello)
	must(c.t, err)
	export := make([]byte, 10)
	if _, err := io.ReadFull(conn, export); err != nil {
		c.t.Fatalf("export: %v", err)
	}
	if size := binary.BigEndian.Uint64(export); size == 0 {
		c.t.Fatal("the export has no size")
	}
	return conn
}

// nbdWrite is the header of a write request.
func nbdWrite(offset uint64, length uint32) []byte {
	h := binary.BigEndian.AppendUint32(nil, 0x25609513)
	h = binary.BigEndian.AppendUint32(h, 1) // no flags, NBD_CMD_WRITE
	h = binary.BigEndian.AppendUint64(h, 42)
	h = binary.BigEndian.AppendUint64(h, offset)
	return binary.BigEndian.AppendUint32(h, length)
}

// Clients that vanish in the middle of a write: what they did not send whole is
// not written, and nobody else notices.
func TestDisconnectInTheMiddleOfAWrite(t *testing.T) {
	c := start(t, small)
	// The last MiB is not the load's.
	conn := c.dial()
	const size = 64*mib - mib
	old := randomPage(1)
	if _, err := conn.WriteAt(old, size); err != nil {
		t.Fatal(err)
	}
	ld := c.startLoadOn(size)
	for _, sent := range []int{0, 1, 2048, 4095} {
		raw := c.rawNBD()
		if _, err := raw.Write(append(nbdWrite(size, 4096), randomPage(2)[:sent]...)); err != nil {
			t.Fatal(err)
		}
		must(t, raw.Close())
	}
	for range 5 { // hundreds of KiB on the way
		raw := c.rawNBD()
		msg := append(nbdWrite(size+64<<10, mib/2), make([]byte, mib/4)...)
		if _, err := raw.Write(msg); err != nil {
			t.Fatal(err)
		}
		must(t, raw.Close())
	}
	ld.more(2000)
	got := make([]byte, 4096)
	if _, err := conn.ReadAt(got, size); err != nil || !bytes.Equal(got, old) {
		t.Errorf("a write that was never sent whole has changed the page (%v)", err)
	}
	if _, err := conn.ReadAt(got, size+64<<10); err != nil || !bytes.Equal(got, make([]byte, 4096)) {
		t.Errorf("a write that was never sent whole has changed a page (%v)", err)
	}
	ld.flawless()
	c.allAlive()
}

// Requests that can be answered are answered, with an errno.
func TestRequestsBehindTheEnd(t *testing.T) {
	c := start(t, small)
	conn := c.dial()
	p := make([]byte, 8192)
	for _, off := range []int64{64 * mib, 64*mib - 4096, 1 << 40, 1<<62 - 4096, -4096} {
		if _, err := conn.ReadAt(p, off); !errors.Is(err, nbdclient.EINVAL) {
			t.Errorf("read at %d: %v, want EINVAL", off, err)
		}
		if _, err := conn.WriteAt(p, off); !errors.Is(err, nbdclient.ENOSPC) && !errors.Is(err, nbdclient.EINVAL) {
			t.Errorf("write at %d: %v, want ENOSPC", off, err)
		}
		if err := conn.Trim(off, 8192); !errors.Is(err, nbdclient.EINVAL) && !errors.Is(err, nbdclient.ENOSPC) {
			t.Errorf("trim at %d: %v, want EINVAL", off, err)
		}
	}
	if _, err := conn.ReadAt(p, 0); err != nil {
		t.Errorf("the connection is of no use any more: %v", err)
	}
}
