package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"dmps/client"
)

func FuzzParseInfoRequest(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0})
	f.Add([]byte("\x00\x00\x00\x03vol\x00\x02\x00\x00\x00\x03"))
	f.Add([]byte("\xff\xff\xff\xffvol\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x03vol\xff\xff\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x02\xff\xfe\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseInfoRequest(data)
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Fatalf("unexpected error %v", err)
			}
			return
		}
		again := binary.BigEndian.AppendUint32(nil, uint32(len(r.name)))
		again = append(again, r.name...)
		again = binary.BigEndian.AppendUint16(again, uint16(len(r.infos)))
		for _, i := range r.infos {
			again = binary.BigEndian.AppendUint16(again, i)
		}
		if !bytes.Equal(again, data) {
			t.Fatalf("%x parsed to %+v, which is %x", data, r, again)
		}
	})
}

func FuzzParseContextRequest(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte("\x00\x00\x00\x03vol\x00\x00\x00\x01\x00\x00\x00\x0fbase:allocation"))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x05base:\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff\xff\xffbase"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseContextRequest(data)
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Fatalf("unexpected error %v", err)
			}
			return
		}
		again := binary.BigEndian.AppendUint32(nil, uint32(len(r.export)))
		again = append(again, r.export...)
		again = binary.BigEndian.AppendUint32(again, uint32(len(r.queries)))
		for _, q := range r.queries {
			again = binary.BigEndian.AppendUint32(again, uint32(len(q)))
			again = append(again, q...)
		}
		if !bytes.Equal(again, data) {
			t.Fatalf("%x parsed to %+v, which is %x", data, r, again)
		}
	})
}

// FuzzRequest judges any header by all rules: what is let through must lie
// inside the device and fit an Op.
func FuzzRequest(f *testing.F) {
	f.Add(headerOfWrite, int64(1<<40), uint8(0))
	f.Add(append(append([]byte(nil), headerOfWrite[:16]...), bytes.Repeat([]byte{0xff}, 12)...), int64(1<<20), uint8(7))
	f.Add(bytes.Repeat([]byte{0x25, 0x60, 0x95, 0x13}, 7), int64(4096), uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, size int64, how uint8) {
		if len(b) < requestHeaderLen || size < 0 {
			return
		}
		r := rules{size: size, readOnly: how&1 != 0, structured: how&2 != 0, allocation: how&4 != 0}
		h, err := parseRequest(b[:requestHeaderLen])
		if err != nil {
			return
		}
		if r.check(&h) != 0 {
			return
		}
		end := h.Offset + uint64(h.Length)
		if end < h.Offset || end > uint64(size) {
			t.Fatalf("%+v lies outside of %d bytes", h, size)
		}
		if h.Type == cmdRead || h.Type == cmdWrite || h.Type == cmdCache {
			if n := pagesOf(int64(h.Offset), int64(h.Length)); n > client.MaxOpPages {
				t.Fatalf("%+v takes %d pages", h, n)
			}
		}
		if r.readOnly && (h.Type == cmdWrite || h.Type == cmdTrim || h.Type == cmdWriteZeroes) {
			t.Fatalf("%+v passes although read-only", h)
		}
	})
}

// FuzzNegotiate feeds a handshake with anything. It must end, take no more
// than its limits and say nothing but replies.
func FuzzNegotiate(f *testing.F) {
	for _, c := range negotiations {
		f.Add([]byte(c.in))
	}
	exports, err := newCatalog(map[string]Export{"vol": {Device: sized(1 << 20)}, "ro": {Device: sized(4096), ReadOnly: true}}, "vol")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		s, err := negotiate(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(in), &out}, exports, func() bool { return false })
		if (s == nil) == (err == nil) {
			t.Fatalf("session %v, error %v", s, err)
		}
		if s != nil && s.rules.allocation && !s.rules.structured {
			t.Fatal("block status without structured replies")
		}
		if out.Len() < 18 {
			t.Fatal("no greeting")
		}
	})
}
