package tcp

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dmps/transport"
)

// The bytes of docs/wire.md.
const (
	goldenRebuild = `05 02 0000 05000300 0807060504030201 02000000 00000000
		02 01 00 00 42000000 00e1f50500000000
		0d00000000000000 6500000000000000 01 00 0d00 7463703a2f2f 613a37333031 35
		0e00000000000000 6600000000000000 02 00 0d00 7463703a2f2f 623a37333031 36
		09000000 78563412 0300 0000 06000000
		0a000000 78563412 0100 0000 04000000`
	goldenRebuilt = `81 00 0000 05000300 14000000 0021000000000000 0000000000000000 0100 02 02`

	goldenVerify = `05 00 0000 06000300 0807060504030201 02000000 00000000
		02 01 00 01 00000000 00e1f50500000000
		09000000 78563412 0300 0000 00000000
		0a000000 78563412 0100 0000 00000000`
	goldenVerified = `81 00 0000 06000300 14000000 0000000000000000 b020000000000000 0000 04 00`
)

var rebuildValue = transport.RebuildSpec{
	Chunk: 0x0102030405060708, K: 2, M: 1, Col: 0, RateBytes: 100e6,
	Sources: []transport.RebuildSource{
		{Addr: "tcp://a:73015", Incarnation: 13, Chunk: 101, Col: 1},
		{Addr: "tcp://b:73016", Incarnation: 14, Chunk: 102, Col: 2},
	},
	Rows: []transport.RebuildRow{
		{Index: 9, Tag: 0x12345678, Filled: 3, Have: 6},
		{Index: 10, Tag: 0x12345678, Filled: 1, Have: 4},
	},
}

var verifyValue = transport.RebuildSpec{
	Chunk: 0x0102030405060708, K: 2, M: 1, Col: 0, Verify: true, RateBytes: 100e6,
	Rows: []transport.RebuildRow{
		{Index: 9, Tag: 0x12345678, Filled: 3},
		{Index: 10, Tag: 0x12345678, Filled: 1},
	},
}

func encodeRebuild(s *transport.RebuildSpec, id uint32) []byte {
	n := rebuildSourcesSize(s)
	b := make([]byte, requestHead+rebuildHead+n+len(s.Rows)*rebuildRowSize)
	q := request{typ: typeRebuild, runs: uint8(len(s.Sources)), id: id, chunk: s.Chunk, segs: uint32(len(s.Rows))}
	q.put(b)
	putRebuild(b[requestHead:], s, n)
	putRebuildRows(b[requestHead+rebuildHead+n:], s.Rows)
	return b
}

// decodeRebuild does what session.rebuildSpec does with a socket.
func decodeRebuild(b []byte) (*transport.RebuildSpec, uint32, error) {
	q, err := parseRequest(b)
	if err != nil {
		return nil, 0, err
	}
	if q.typ != typeRebuild {
		return nil, 0, errFrame
	}
	b = b[requestHead:]
	s, n, err := parseRebuildHead(b, &q)
	if err != nil {
		return nil, 0, err
	}
	if b = b[rebuildHead:]; len(b) < n+int(q.segs)*rebuildRowSize {
		return nil, 0, errFrame
	}
	if s.Sources, err = parseRebuildSources(b[:n], int(q.runs)); err != nil {
		return nil, 0, err
	}
	if s.Rows, err = parseRebuildRows(b[n : n+int(q.segs)*rebuildRowSize]); err != nil {
		return nil, 0, err
	}
	return &s, q.id, s.Validate()
}

func TestGoldenRebuild(t *testing.T) {
	for _, c := range []struct {
		spec             transport.RebuildSpec
		id               uint32
		res              transport.RebuildResult
		request, rebuilt string
	}{
		{rebuildValue, 0x30005, transport.RebuildResult{
			Pulled: 8448, Failed: []transport.RebuildFailure{{Row: 1, Reason: transport.RebuildUnreachable, Col: 2}},
		}, goldenRebuild, goldenRebuilt},
		{verifyValue, 0x30006, transport.RebuildResult{
			Checked: 8368, Failed: []transport.RebuildFailure{{Row: 0, Reason: transport.RebuildChecksum}},
		}, goldenVerify, goldenVerified},
	} {
		b := encodeRebuild(&c.spec, c.id)
		if want := unhex(t, c.request); !bytes.Equal(b, want) {
			t.Errorf("rebuild\n%x\n%x", b, want)
		}
		s, id, err := decodeRebuild(b)
		if err != nil || id != c.id || !cmp.Equal(*s, c.spec) {
			t.Errorf("rebuild %+v, %v", s, err)
		}
		n := rebuildReplySize(&c.res)
		p := reply{typ: typeReply, id: c.id, length: uint32(n)}
		b = make([]byte, replyHead+n)
		p.put(b)
		putRebuildReply(b[replyHead:], &c.res)
		if want := unhex(t, c.rebuilt); !bytes.Equal(b, want) {
			t.Errorf("rebuilt\n%x\n%x", b, want)
		}
		if got, err := parseRebuildReply(b[replyHead:], 2, 3); err != nil || !cmp.Equal(got, c.res) {
			t.Errorf("rebuilt %+v, %v", got, err)
		}
	}
	for name, bad := range map[string][]byte{
		"row":      {1: 2},
		"reason 0": {2: 0, 3: 0},
		"column":   {2: 1, 3: 3},
		"half":     {1, 0, 1},
	} {
		if _, err := parseRebuildReply(append(make([]byte, 16), bad...), 2, 3); !errors.Is(err, errFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	twice := append(make([]byte, 16), 1, 0, 1, 0, 1, 0, 1, 0)
	if _, err := parseRebuildReply(twice, 2, 3); !errors.Is(err, errFrame) {
		t.Errorf("a row twice: %v", err)
	}
	reserved := encodeRebuild(&verifyValue, 1)
	reserved[len(reserved)-6] = 1
	if _, _, err := decodeRebuild(reserved); !errors.Is(err, errFrame) {
		t.Errorf("a reserved byte of a row: %v", err)
	}
}

// The largest request and answer fit into what both sides reserve.
func TestLargestRebuild(t *testing.T) {
	s := transport.RebuildSpec{K: 16, M: 4, Col: 19}
	for i := range 20 {
		s.Sources = append(s.Sources, transport.RebuildSource{Addr: strings.Repeat("x", transport.MaxRebuildAddr), Col: uint8(i)})
	}
	for i := range transport.MaxRebuildRows {
		s.Rows = append(s.Rows, transport.RebuildRow{Index: uint32(i), Filled: 0xffff, Have: 1<<20 - 1})
	}
	b := encodeRebuild(&s, 1)
	got, _, err := decodeRebuild(b)
	if err != nil || !cmp.Equal(*got, s) {
		t.Fatal(err)
	}
	if len(b) > 22<<10 {
		t.Errorf("%d bytes", len(b))
	}
	s.Rows = append(s.Rows, s.Rows[0])
	if s.Validate() == nil {
		t.Error("too many rows")
	}
}

func FuzzRebuild(f *testing.F) {
	f.Add(unhex(f, goldenRebuild))
	f.Add(unhex(f, goldenVerify))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, id, err := decodeRebuild(b)
		if err != nil {
			return
		}
		if out := encodeRebuild(s, id); !bytes.Equal(out, b[:len(out)]) {
			t.Fatalf("%x became %x", b, out)
		}
	})
}

func FuzzRebuilt(f *testing.F) {
	f.Add(unhex(f, goldenRebuilt)[replyHead:])
	f.Add(unhex(f, goldenVerified)[replyHead:])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRebuildReply(b, 100, 6)
		if err != nil {
			return
		}
		out := make([]byte, rebuildReplySize(&r))
		putRebuildReply(out, &r)
		if !bytes.Equal(out, b) {
			t.Fatalf("%x became %x", b, out)
		}
	})
}

// What a server answers to a rebuild is not believed when it breaks the
// protocol, and its status is when it does not.
func TestMadRebuilt(t *testing.T) {
	for name, c := range map[string]struct {
		status transport.Status
		body   []byte
		want   error
	}{
		"too long":         {0, make([]byte, 16+3*4), errFrame},
		"too short":        {0, make([]byte, 15), errFrame},
		"no chunk":         {transport.StatusNoChunk, nil, transport.ErrNoChunk},
		"row out of range": {0, append(make([]byte, 16), 9, 0, 1, 0), errFrame},
		"no such column":   {0, append(make([]byte, 16), 1, 0, 1, 3), errFrame},
		"good":             {0, make([]byte, 16), nil},
	} {
		t.Run(name, func(t *testing.T) {
			var d Dialer
			defer d.Close()
			addr := peer(t, func(nc net.Conn) {
				b := make([]byte, requestHead)
				if _, err := nc.Read(b); err != nil {
					t.Error(err)
				}
				p := reply{typ: typeReply, id: le.Uint32(b[4:]), status: c.status, length: uint32(len(c.body))}
				p.put(b[:replyHead])
				_, _ = nc.Write(append(b[:replyHead:replyHead], c.body...))
				for {
					if _, err := nc.Read(make([]byte, 1<<16)); err != nil {
						return
					}
				}
			})
			conn, _, err := d.Dial(t.Context(), addr, transport.Hello{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = conn.Rebuild(t.Context(), &rebuildValue)
			if c.want == errFrame {
				if !errors.Is(err, transport.ErrClosed) || !errors.Is(conn.Err(), errFrame) {
					t.Errorf("%v, %v", err, conn.Err())
				}
			} else if !errors.Is(err, c.want) {
				t.Error(err)
			}
		})
	}
}

// A client that has more rebuilds in flight than it may loses its connection.
func TestRebuildCredit(t *testing.T) {
	b := &stuckRebuilds{begun: make(chan struct{}, 100)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := Server{Backend: b}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	defer func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(time.Minute))
	hello, err := encodeHello(transport.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Write(hello); err != nil {
		t.Fatal(err)
	}
	if _, err := decodeWelcome(nc, transport.Version); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(transport.RebuildsInFlight) {
		if _, err := nc.Write(encodeRebuild(&rebuildValue, i)); err != nil {
			t.Fatal(err)
		}
		<-b.begun
	}
	if _, err := nc.Write(encodeRebuild(&rebuildValue, 77)); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, replyHead)
	if _, err := nc.Read(head); err != nil || head[0] != typeGoaway || len(b.begun) != 0 {
		t.Errorf("answer %x, %v; %d more have begun", head, err, len(b.begun))
	}
}
