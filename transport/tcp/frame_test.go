package tcp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dmps/transport"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The bytes of docs/wire.md. They never change within a version.
const (
	goldenRequest = `02 02 5800 05000100 0807060504030201 03000000 05000000`
	goldenRuns    = `09000000 02000000 04000000 01000000`
	goldenOpen    = `00400000 58000000 03000000 07000000`
	goldenReply   = `81 00 0000 05000100 58100000`
	goldenGoaway  = `82 02 0000 00000000 05000000`
	goldenHello   = `444d5053000d0a1a 0500 0500 24000000
		0700000000000000 0300000000000000 efbeadde00000000 00 0200 6331 0300 626f62 0000`
	goldenWelcome   = `444d5053000d0a1a 0500 00 00 10000000 efbeadde00000000 00010000 0200 7339`
	goldenRailHello = `444d5053000d0a1a 0600 0600 32000000
		0700000000000000 0300000000000000 efbeadde00000000 00 0200 6331 0300 626f62 0000
		0807060504030201 05000000 03 01`
	goldenRailWelcome = `444d5053000d0a1a 0600 00 00 10000000 efbeadde00000000 00010000 0200 7339`
	goldenRefusal     = `444d5053000d0a1a 0500 02 00 1b000000 1900 7472616e73706f72743a207374616c652065706f6368203c33`
)

func TestGoldenFrames(t *testing.T) {
	q := request{typ: typeWrite, runs: 2, headerBytes: 88, id: 0x10005, chunk: 0x0102030405060708, segs: 3, mask: 5}
	b := make([]byte, requestHead)
	q.put(b)
	if want := unhex(t, goldenRequest); !bytes.Equal(b, want) {
		t.Errorf("request\n%x\n%x", b, want)
	}
	if got, err := parseRequest(b); err != nil || got != q {
		t.Errorf("request %+v, %v", got, err)
	}
	runs := []transport.Run{{Start: 9, Count: 2}, {Start: 4, Count: 1}}
	b = make([]byte, 16)
	putRuns(b, runs)
	if want := unhex(t, goldenRuns); !bytes.Equal(b, want) {
		t.Errorf("runs\n%x\n%x", b, want)
	}
	if got, err := appendRuns(nil, b, 2, 3); err != nil || !cmp.Equal(got, runs) {
		t.Errorf("runs %v, %v", got, err)
	}
	spec := transport.ChunkSpec{Slots: 16384, HeaderBytes: 88, Group: 7, InPlace: true, MustExist: true}
	b = make([]byte, openSize)
	putOpen(b, spec)
	if want := unhex(t, goldenOpen); !bytes.Equal(b, want) {
		t.Errorf("open\n%x\n%x", b, want)
	}
	if got, err := parseOpen(b); err != nil || got != spec {
		t.Errorf("open %+v, %v", got, err)
	}
	for golden, p := range map[string]reply{
		goldenReply:  {typ: typeReply, id: 0x10005, length: 4184},
		goldenGoaway: {typ: typeGoaway, status: transport.StatusStaleEpoch, length: 5},
	} {
		b = make([]byte, replyHead)
		p.put(b)
		if want := unhex(t, golden); !bytes.Equal(b, want) {
			t.Errorf("reply\n%x\n%x", b, want)
		}
		if got, err := parseReply(b); err != nil || got != p {
			t.Errorf("reply %+v, %v", got, err)
		}
	}
}

var (
	helloValue   = transport.Hello{Volume: 7, Epoch: 3, Incarnation: 0xdeadbeef, Cluster: "c1", Client: "bob"}
	welcomeValue = transport.Welcome{Server: "s9", Incarnation: 0xdeadbeef, Window: 256}
)

// railValue is the hello of a session's fourth rail.
func railValue() transport.Hello {
	h := helloValue
	h.Rail = transport.Rail{Session: 0x0102030405060708, Attempt: 5, Index: 3, Join: true}
	return h
}

func TestGoldenRail(t *testing.T) {
	b, err := encodeHello(railValue())
	if err != nil {
		t.Fatal(err)
	}
	if want := unhex(t, goldenRailHello); !bytes.Equal(b, want) {
		t.Errorf("hello\n%x\n%x", b, want)
	}
	if got, err := decodeHello(bytes.NewReader(b)); err != nil || !cmp.Equal(got, railValue()) {
		t.Errorf("hello %+v, %v", got, err)
	}
	for i := range b {
		if _, err := decodeHello(bytes.NewReader(b[:i])); err == nil {
			t.Errorf("%d of %d bytes were accepted", i, len(b))
		}
	}
	w := encodeWelcome(welcomeValue, versionOf(railValue()))
	if want := unhex(t, goldenRailWelcome); !bytes.Equal(w, want) {
		t.Errorf("welcome\n%x\n%x", w, want)
	}
	if got, err := decodeWelcome(bytes.NewReader(w), transport.VersionRails); err != nil || got != welcomeValue {
		t.Errorf("welcome %+v, %v", got, err)
	}
	// A server that does not know rails must not be taken for one that keeps to them.
	if _, err := decodeWelcome(bytes.NewReader(unhex(t, goldenWelcome)), transport.VersionRails); !errors.Is(err, transport.ErrRefused) {
		t.Errorf("a welcome of version 5: %v", err)
	}
	end := len(b)
	for name, c := range map[string]struct {
		at   int
		with []byte
		want error
	}{
		"no session":     {end - 14, make([]byte, 8), errFrame},
		"attempt":        {end - 6, make([]byte, 4), errFrame},
		"index":          {end - 2, []byte{transport.MaxRails}, errFrame},
		"flags":          {end - 1, []byte{2}, errFrame},
		"a reader":       {40, []byte{1}, errFrame},
		"authentication": {end - 16, []byte{1, 0}, transport.ErrRefused},
		"version 5":      {8, []byte{5, 0, 5, 0}, errFrame}, // has more than that knows
		"version 4":      {8, []byte{4, 0, 4, 0}, transport.ErrRefused},
		"version 7":      {8, []byte{7, 0, 7, 0}, transport.ErrRefused},
		"no range":       {8, []byte{6, 0, 5, 0}, transport.ErrRefused},
	} {
		b := bytes.Clone(b)
		copy(b[c.at:], c.with)
		if _, err := decodeHello(bytes.NewReader(b)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, spoil := range []func(*transport.Hello){
		func(h *transport.Hello) { h.Rail.Index = transport.MaxRails },
		func(h *transport.Hello) { h.Mode = transport.ModeReader },
		func(h *transport.Hello) { h.Rail.Session = 0 },
		func(h *transport.Hello) { h.Rail.Attempt = 0 },
	} {
		h := railValue()
		spoil(&h)
		if _, err := encodeHello(h); err == nil {
			t.Errorf("%+v was encoded", h.Rail)
		}
	}
}

type tagged struct{ error }

func (tagged) Error() string   { return "transport: stale epoch <3" }
func (e tagged) Unwrap() error { return e.error }

func TestGoldenHandshake(t *testing.T) {
	b, err := encodeHello(helloValue)
	if err != nil {
		t.Fatal(err)
	}
	if want := unhex(t, goldenHello); !bytes.Equal(b, want) {
		t.Errorf("hello\n%x\n%x", b, want)
	}
	if got, err := decodeHello(bytes.NewReader(b)); err != nil || !cmp.Equal(got, helloValue) {
		t.Errorf("hello %+v, %v", got, err)
	}
	b = encodeWelcome(welcomeValue, transport.Version)
	if want := unhex(t, goldenWelcome); !bytes.Equal(b, want) {
		t.Errorf("welcome\n%x\n%x", b, want)
	}
	if got, err := decodeWelcome(bytes.NewReader(b), transport.Version); err != nil || got != welcomeValue {
		t.Errorf("welcome %+v, %v", got, err)
	}
	b = encodeRefusal(tagged{transport.ErrStaleEpoch})
	if want := unhex(t, goldenRefusal); !bytes.Equal(b, want) {
		t.Errorf("refusal\n%x\n%x", b, want)
	}
	if _, err := decodeWelcome(bytes.NewReader(b), transport.Version); !errors.Is(err, transport.ErrStaleEpoch) || !strings.Contains(err.Error(), "<3") {
		t.Errorf("refusal: %v", err)
	}
}

func TestHandshakeRefuses(t *testing.T) {
	good := unhex(t, goldenHello)
	for name, c := range map[string]struct {
		at   int
		with []byte
		want error
	}{
		"magic":          {0, []byte("HTTP"), errFrame},
		"length":         {12, []byte{0, 0, 1, 0}, errFrame},
		"newer client":   {8, []byte{7, 0, 9, 0}, transport.ErrRefused},
		"older client":   {8, []byte{1, 0, 2, 0}, transport.ErrRefused},
		"mode":           {40, []byte{9}, transport.ErrRefused},
		"authentication": {len(good) - 2, []byte{1, 0}, transport.ErrRefused},
		"name":           {41, []byte{0xff, 0xff}, errFrame},
	} {
		b := bytes.Clone(good)
		copy(b[c.at:], c.with)
		if _, err := decodeHello(bytes.NewReader(b)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range good {
		if _, err := decodeHello(bytes.NewReader(good[:i])); err == nil {
			t.Errorf("%d of %d bytes were accepted", i, len(good))
		}
	}
	// An old client hears what it would have to speak.
	old := bytes.Clone(good)
	copy(old[8:], []byte{1, 0, 2, 0})
	_, err := decodeHello(bytes.NewReader(old))
	_, err = decodeWelcome(bytes.NewReader(encodeRefusal(err)), 1)
	if !errors.Is(err, transport.ErrRefused) || !strings.Contains(err.Error(), "client speaks versions 1 to 2, this server 5 to 6") {
		t.Errorf("an old client is told %v", err)
	}
	h := helloValue
	h.Cluster = strings.Repeat("x", 300)
	if _, err := encodeHello(h); err == nil {
		t.Error("a cluster id of 300 bytes was encoded")
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(append(unhex(f, goldenRequest), unhex(f, goldenRuns)...))
	f.Add(make([]byte, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseRequest(b)
		if err != nil {
			return
		}
		out := make([]byte, requestHead)
		q.put(out)
		if !bytes.Equal(out, b[:requestHead]) {
			t.Fatalf("%x became %x", b[:requestHead], out)
		}
		if q.typ == typeRebuild {
			if q.segs > transport.MaxRebuildRows || q.runs > transport.MaxRebuildMembers {
				t.Fatalf("unbounded: %+v", q)
			}
			return
		}
		if q.typ != typeReadHeaders && q.segs > transport.MaxSegs || int(q.segs)*int(q.headerBytes) > transport.MaxHeadersBytes {
			t.Fatalf("unbounded: %+v", q)
		}
		runs, err := appendRuns(nil, b[requestHead:], int(q.runs), q.segs)
		if err != nil {
			return
		}
		var sum uint32
		for _, r := range runs {
			sum += r.Count
		}
		if sum != q.segs {
			t.Fatalf("runs of %d slots for %d", sum, q.segs)
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add(unhex(f, goldenReply))
	f.Add(unhex(f, goldenGoaway))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseReply(b)
		if err != nil {
			return
		}
		out := make([]byte, replyHead)
		p.put(out)
		if !bytes.Equal(out, b[:replyHead]) {
			t.Fatalf("%x became %x", b[:replyHead], out)
		}
	})
}

func FuzzOpen(f *testing.F) {
	f.Add(unhex(f, goldenOpen))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseOpen(b)
		if err != nil {
			return
		}
		out := make([]byte, openSize)
		putOpen(out, s)
		if !bytes.Equal(out, b[:openSize]) {
			t.Fatalf("%x became %x", b[:openSize], out)
		}
	})
}

func FuzzHello(f *testing.F) {
	f.Add(unhex(f, goldenHello))
	f.Add(unhex(f, goldenRailHello))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHello(bytes.NewReader(b))
		if err != nil {
			return
		}
		out, err := encodeHello(h)
		if err != nil {
			t.Fatal(err)
		}
		// The versions may differ: a range that holds ours.
		if !bytes.Equal(out[12:], b[12:len(out)]) {
			t.Fatalf("%x became %x", b, out)
		}
	})
}

func FuzzWelcome(f *testing.F) {
	f.Add(unhex(f, goldenWelcome))
	f.Add(unhex(f, goldenRefusal))
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := decodeWelcome(bytes.NewReader(b), transport.Version)
		if err == nil && !bytes.Equal(encodeWelcome(w, transport.Version), b[:len(encodeWelcome(w, transport.Version))]) {
			t.Fatalf("%x became %x", b, encodeWelcome(w, transport.Version))
		}
	})
}
