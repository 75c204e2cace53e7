package nbdclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeServer serves memory to one connection. It holds back replies and lets
// them go in reverse order, and fails what touches a bad byte.
type fakeServer struct {
	mem  []byte
	hold int   // replies to collect before they are sent, newest first
	bad  int64 // requests over this byte answer EIO; -1: none
}

type fakeRequest struct {
	cmd     uint16
	id      uint64
	off     uint64
	n       uint32
	payload []byte
}

func greet(w io.Writer) {
	be := binary.BigEndian
	b := be.AppendUint64(nil, magicServer)
	b = be.AppendUint64(b, magicOption)
	w.Write(be.AppendUint16(b, flagFixedNewstyle|flagNoZeroes))
}

func optionReply(kind uint32, data []byte) []byte {
	be := binary.BigEndian
	b := be.AppendUint64(nil, magicReply)
	b = be.AppendUint32(b, optGo)
	b = be.AppendUint32(b, kind)
	b = be.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func exportInfo(size uint64, flags uint16) []byte {
	be := binary.BigEndian
	b := be.AppendUint16(nil, infoExport)
	b = be.AppendUint64(b, size)
	return be.AppendUint16(b, flags)
}

func (s *fakeServer) serve(c net.Conn) error {
	greet(c)
	be := binary.BigEndian
	var head [4 + 16]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, c, int64(be.Uint32(head[16:]))); err != nil {
		return err
	}
	c.Write(optionReply(repInfo, exportInfo(uint64(len(s.mem)), 1)))
	c.Write(optionReply(repAck, nil))
	var held [][]byte
	for {
		var h [28]byte
		if _, err := io.ReadFull(c, h[:]); err != nil {
			return err
		}
		r := fakeRequest{cmd: be.Uint16(h[6:]), id: be.Uint64(h[8:]), off: be.Uint64(h[16:]), n: be.Uint32(h[24:])}
		if be.Uint32(h[:]) != magicRequest {
			return errors.New("bad request magic")
		}
		if r.cmd == cmdWrite {
			r.payload = make([]byte, r.n)
			if _, err := io.ReadFull(c, r.payload); err != nil {
				return err
			}
		}
		if r.cmd == cmdDisc {
			return nil
		}
		held = append(held, s.answer(r))
		if len(held) >= s.hold {
			for i := len(held) - 1; i >= 0; i-- {
				c.Write(held[i])
			}
			held = nil
		}
	}
}

func (s *fakeServer) answer(r fakeRequest) []byte {
	be := binary.BigEndian
	errno := uint32(0)
	end := r.off + uint64(r.n)
	switch {
	case end > uint64(len(s.mem)):
		errno = uint32(EINVAL)
	case s.bad >= 0 && uint64(s.bad) >= r.off && uint64(s.bad) < end:
		errno = uint32(EIO)
	}
	b := be.AppendUint32(nil, magicSimple)
	b = be.AppendUint32(b, errno)
	b = be.AppendUint64(b, r.id)
	if errno != 0 {
		return b
	}
	switch r.cmd {
	case cmdWrite:
		copy(s.mem[r.off:], r.payload)
	case cmdTrim:
		clear(s.mem[r.off:end])
	case cmdRead:
		b = append(b, s.mem[r.off:end]...)
	}
	return b
}

// start serves on a unix socket until the test ends.
func (s *fakeServer) start(t *testing.T) Addr {
	return listen(t, func(c net.Conn) { s.serve(c) })
}

func listen(t *testing.T, serve func(net.Conn)) Addr {
	t.Helper()
	a := Addr{Network: "unix", Address: filepath.Join(t.TempDir(), "nbd.sock"), Export: "swap0"}
	l, err := net.Listen(a.Network, a.Address)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return a
}

func dial(t *testing.T, a Addr) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestReadWriteTrimFlush(t *testing.T) {
	s := &fakeServer{mem: make([]byte, 1<<20), bad: 1<<20 - 1}
	c := dial(t, s.start(t))
	defer c.Close()
	if c.Size() != 1<<20 {
		t.Fatalf("size %d", c.Size())
	}
	want := make([]byte, 8192)
	rand.NewChaCha8([32]byte{1}).Read(want)
	if n, err := c.WriteAt(want, 4096); n != len(want) || err != nil {
		t.Fatal(n, err)
	}
	got := make([]byte, 8192)
	if n, err := c.ReadAt(got, 4096); n != len(got) || err != nil || !bytes.Equal(got, want) {
		t.Fatal(n, err)
	}
	if err := c.Trim(4096, 4096); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadAt(got, 4096); err != nil || !bytes.Equal(got[:4096], make([]byte, 4096)) || !bytes.Equal(got[4096:], want[4096:]) {
		t.Fatal("trim did not do what it should", err)
	}
	var e Errno
	if _, err := c.ReadAt(got, 1<<20-4096); !errors.As(err, &e) || e != EINVAL {
		t.Fatalf("read past the end: %v", err)
	}
	if _, err := c.ReadAt(got[:4096], 1<<20-4096); !errors.As(err, &e) || e != EIO {
		t.Fatalf("read of the bad byte: %v", err)
	}
	if _, err := c.ReadAt(got, 0); err != nil {
		t.Fatalf("an error ended the connection: %v", err)
	}
}

// TestOutOfOrder has many goroutines whose replies come in the wrong order.
func TestOutOfOrder(t *testing.T) {
	const depth, each = 8, 50
	s := &fakeServer{mem: make([]byte, depth*4096), hold: depth, bad: -1}
	c := dial(t, s.start(t))
	defer c.Close()
	var wg sync.WaitGroup
	for g := range depth {
		wg.Go(func() {
			buf, back := make([]byte, 4096), make([]byte, 4096)
			for i := range each {
				for j := range buf {
					buf[j] = byte(g ^ i)
				}
				if _, err := c.WriteAt(buf, int64(g)*4096); err != nil {
					t.Error(err)
					return
				}
				if _, err := c.ReadAt(back, int64(g)*4096); err != nil || !bytes.Equal(buf, back) {
					t.Errorf("goroutine %d, round %d: wrong bytes or %v", g, i, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestPendingFailOnClose: no call is left waiting, whoever ends the connection.
func TestPendingFailOnClose(t *testing.T) {
	s := &fakeServer{mem: make([]byte, 1<<20), hold: 100, bad: -1}
	c := dial(t, s.start(t))
	errs := make(chan error)
	go func() { errs <- c.Flush() }()
	for pending := 0; pending == 0; {
		c.calls.Lock()
		pending = len(c.calls.pending)
		c.calls.Unlock()
	}
	c.Close()
	if err := <-errs; !errors.Is(err, ErrClosed) {
		t.Fatalf("pending call: %v", err)
	}
	if err := c.Flush(); !errors.Is(err, ErrClosed) {
		t.Fatalf("call after Close: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatalf("second Close: %v", err)
	}
}

func TestHandshakeRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		reply []byte
		want  string
	}{
		"unknown export":     {optionReply(repErr|6, []byte("nope")), "no such export"},
		"ack without export": {optionReply(repAck, nil), "without describing"},
		"oversized":          {append(optionReply(repInfo, nil)[:16], 0xff, 0xff, 0xff, 0xff), "4294967295 bytes"},
		"short info":         {optionReply(repInfo, []byte{0}), "without a type"},
		"bad magic":          {make([]byte, 20), "malformed"},
		"negative size":      {optionReply(repInfo, exportInfo(1<<63, 0)), "export of"},
		"endless":            {bytes.Repeat(optionReply(repInfo, exportInfo(1, 0)), maxOptionReplies+1), "do not end"},
	} {
		t.Run(name, func(t *testing.T) {
			a := listen(t, func(conn net.Conn) {
				greet(conn)
				conn.Write(c.reply)
				io.Copy(io.Discard, conn)
			})
			_, err := Dial(t.Context(), a)
			if err == nil || !bytes.Contains([]byte(err.Error()), []byte(c.want)) {
				t.Fatalf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

// TestDialIsBounded: a server that accepts and says nothing does not hold up
// whoever asks whether it lives.
func TestDialIsBounded(t *testing.T) {
	a := listen(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, a); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func FuzzHandshake(f *testing.F) {
	var good bytes.Buffer
	greet(&good)
	good.Write(optionReply(repInfo, exportInfo(1<<30, 1)))
	good.Write(optionReply(repAck, nil))
	f.Add(good.Bytes())
	f.Add(good.Bytes()[:30])
	f.Fuzz(func(t *testing.T, in []byte) {
		info, err := Negotiate(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(in), io.Discard}, "swap0")
		if err == nil && info.Size < 0 {
			t.Fatalf("size %d", info.Size)
		}
	})
}
