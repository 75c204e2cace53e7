package server

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"dmps/raid"
	"dmps/transport"
	"dmps/transport/tcp"
)

func TestConfigRefused(t *testing.T) {
	for name, c := range map[string]Config{
		"no id":         {Memory: 4096},
		"no memory":     {ID: "a", Memory: 4095},
		"all addresses": {ID: "a", Memory: 4096, Listen: ":0"},
		"reachable":     {ID: "a", Memory: 4096, Listen: "192.0.2.1:1"},
		"a name":        {ID: "a", Memory: 4096, Listen: "example.org:1"},
		"no port":       {ID: "a", Memory: 4096, Listen: "127.0.0.1"},
		"told of any":   {ID: "a", Memory: 4096, Listen: "0.0.0.0:0", InsecureNetwork: true},
		"told of all":   {ID: "a", Memory: 4096, Listen: "127.0.0.1:0", Advertise: "10.0.0.1:1,[::]:1"},
		"window":        {ID: "a", Memory: 4096, Window: 5000},
		"too much":      {ID: "a", Memory: 1 << 60},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for addr, insecure := range map[string]bool{"127.0.0.1:0": false, "[::1]:0": false, "localhost:0": false, "0.0.0.0:0": true} {
		if err := checkListen(addr, insecure); err != nil {
			t.Error(err)
		}
	}
}

func client(t *testing.T, s *Server, epoch uint64) (*tcp.Dialer, transport.Conn, []byte) {
	t.Helper()
	d, mem := new(tcp.Dialer), make([]byte, 1<<20)
	if err := d.Register(mem); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	c, _, err := d.Dial(t.Context(), s.Addr(), transport.Hello{Cluster: "c", Volume: 1, Epoch: epoch}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d, c, mem
}

// A chunk is dropped only when nobody uses it, and its memory comes back zero.
func TestDrop(t *testing.T) {
	s := start(t, Config{Cluster: "c", Listen: "127.0.0.1:0"})
	d, c, _ := client(t, s, 1)
	spec := transport.ChunkSpec{Slots: 100, HeaderBytes: raid.HeaderSize}
	if err := c.OpenChunk(t.Context(), 1, spec); err != nil {
		t.Fatal(err)
	}
	if s.Drop([]raid.ChunkID{1}) != nil {
		t.Fatal("dropped under a session")
	}
	for i := range s.arena.mem[:chunkSize(spec)] {
		s.arena.mem[i] = 0xff
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); s.Stats().Sessions > 0; {
		if time.Now().After(end) {
			t.Fatal("the session did not end")
		}
		time.Sleep(time.Millisecond)
	}
	if len(s.Drop([]raid.ChunkID{1, 99})) != 1 {
		t.Fatal("not dropped")
	}
	swept(t, s)
	_, c, _ = client(t, s, 1)
	if err := c.OpenChunk(t.Context(), 2, spec); err != nil {
		t.Fatal(err)
	}
	x, made := s.lookup(2), make([]byte, raid.HeaderSize)
	for i := range spec.Slots {
		raid.PutErased(made, raid.Site{Volume: 1, Index: raid.Index(i)}, 0)
		if !bytes.Equal(x.head(i), made) || bytes.Count(x.page(i), []byte{0}) != raid.PageSize {
			t.Fatalf("slot %d of a new chunk shows old bytes", i)
		}
	}
}

// A client that vanishes in the middle of a page: the slot is erased, which is not
// what one is that was never written, or, in place, holds the old page; others notice
// nothing.
func TestClientVanishes(t *testing.T) {
	for _, inPlace := range []bool{false, true} {
		s := start(t, Config{Cluster: "c", Listen: "127.0.0.1:0"})
		spec := transport.ChunkSpec{Slots: 4, HeaderBytes: raid.HeaderSize, InPlace: inPlace}
		_, c, mem := client(t, s, 1)
		if err := c.OpenChunk(t.Context(), 1, spec); err != nil {
			t.Fatal(err)
		}
		do := func(c transport.Conn, mem []byte, op transport.Op) transport.Seg {
			done := make(chan struct{})
			g := transport.Seg{Index: 2, Header: mem[:raid.HeaderSize], Page: mem[4096:8192]}
			q := &transport.Request{Op: op, Chunk: 1, Segs: []transport.Seg{g}, Done: func(*transport.Request) { close(done) }}
			if op == transport.OpWrite {
				h := raid.Header{Kind: raid.KindPage, Page: 9, CRC: raid.Checksum(g.Page), Site: raid.Site{Volume: 1, Index: 2}}
				h.Put(g.Header, nil)
			}
			if err := c.Submit(q); err != nil {
				t.Fatal(err)
			}
			c.Kick()
			<-done
			if q.Err != nil {
				t.Fatal(q.Err)
			}
			return g
		}
		for i := range mem[4096:8192] {
			mem[4096+i] = 7
		}
		do(c, mem, transport.OpWrite)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		// By hand: half a page, then the end.
		nc, err := net.Dial("tcp", strings.TrimPrefix(s.Addr(), "tcp://"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Write(halfWrite()); err != nil {
			t.Fatal(err)
		}
		if err := nc.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_, _ = nc.Read(make([]byte, 1000)) // the welcome
		for err == nil {
			_, err = nc.Read(make([]byte, 1000)) // until the server has ended it
		}
		nc.Close()
		_, c, mem = client(t, s, 1)
		g := do(c, mem, transport.OpRead)
		h, err := raid.ParseHeader(g.Header)
		if err != nil {
			t.Fatal(err)
		}
		if inPlace && (h.Kind != raid.KindPage || raid.Checksum(g.Page) != h.CRC) || !inPlace && h.Kind != raid.KindErased {
			t.Errorf("in place %v: %+v", inPlace, h)
		}
	}
}

// halfWrite is a hello and half of a write to slot 2 of chunk 1.
func halfWrite() []byte {
	b := []byte("DMPS\x00\r\n\x1a\x05\x00\x05\x00\x20\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\x01\x00c\x00\x00\x00\x00")
	b = append(b, "\x02\x01\x58\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00"+
		"\x02\x00\x00\x00\x01\x00\x00\x00"...)
	page := bytes.Repeat([]byte{8}, 4096)
	h := raid.Header{Kind: raid.KindPage, Page: 9, Seq: 2, CRC: raid.Checksum(page), Site: raid.Site{Volume: 1, Index: 2}}
	head := make([]byte, raid.HeaderSize)
	h.Put(head, nil)
	return append(append(b, head...), page[:2000]...)
}

// Garbage ends its own connection only.
func TestMalformed(t *testing.T) {
	s := start(t, Config{Cluster: "c", Listen: "127.0.0.1:0"})
	_, c, _ := client(t, s, 1)
	hello := halfWrite()[:48]
	for _, junk := range []string{"GET / HTTP/1.0\r\n\r\n", "DMPS\x00\r\n\x1a\x05\x00\x05\x00\xff\xff\xff\xff",
		string(hello) + strings.Repeat("\xff", 24), string(hello) + strings.Repeat("\x00", 24)} {
		if strings.HasPrefix(junk, string(hello)) {
			b := []byte(junk)
			b[16] = 2 // another volume: this hello must not fence c
			junk = string(b)
		}
		nc, err := net.Dial("tcp", strings.TrimPrefix(s.Addr(), "tcp://"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Write([]byte(junk)); err != nil {
			t.Fatal(err)
		}
		_ = nc.SetReadDeadline(time.Now().Add(time.Minute))
		for err == nil {
			_, err = nc.Read(make([]byte, 1000))
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q: the connection lives on", junk)
		}
		nc.Close()
	}
	if err := c.OpenChunk(t.Context(), 1, transport.ChunkSpec{Slots: 1, HeaderBytes: raid.HeaderSize}); err != nil {
		t.Errorf("another session: %v", err)
	}
}

// Close ends sessions that are in use, and the clients hear why.
func TestCloseWithSessions(t *testing.T) {
	s, err := New(Config{ID: "a", Memory: 1 << 20, Cluster: "c", Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	_, c, _ := client(t, s, 1)
	if err := c.OpenChunk(t.Context(), 1, transport.ChunkSpec{Slots: 1, HeaderBytes: raid.HeaderSize}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	<-c.Done()
	if err := c.Err(); !errors.Is(err, transport.ErrClosed) || errors.Is(err, transport.ErrStaleEpoch) {
		t.Errorf("session ended with %v", err)
	}
}

// What the process holds is what it lends, and at most 2 % more; all of what
// it lends is locked, and therefore there.
func TestMemoryIsWhatWasAsked(t *testing.T) {
	debug.FreeOSMemory() // what other tests left must not go while this one counts
	const size = 256 << 20
	before := procBytes(t, "smaps_rollup", "Rss:")
	s := start(t, Config{Cluster: "c", Memory: size})
	if grown := procBytes(t, "smaps_rollup", "Rss:") - before; grown > size+size/50 {
		t.Errorf("%d bytes resident for %d", grown, size)
	}
	if n := procBytes(t, "status", "VmLck:"); !s.Stats().Locked || n < size {
		t.Errorf("%d bytes locked of %d", n, size)
	}
}

func procBytes(t *testing.T, file, field string) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/" + file)
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(b), field)
	if !ok {
		t.Fatalf("no %s in %s", field, file)
	}
	kb, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	start(t, Config{Cluster: "c", Metrics: reg})
	if _, err := New(Config{ID: "b", Memory: 4096, Metrics: reg}); err == nil {
		t.Error("two servers in one registry")
	}
	got, err := reg.Gather()
	if err != nil || len(got) != 20 {
		t.Errorf("%d metrics, %v", len(got), err)
	}
}
