package fabric

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The bytes of docs/wire.md. They never change within a version.
var (
	attachValue   = attach{provider: "tcp", host: "::1", bell: "b", addr: []byte{1, 2}}
	attachedValue = attached{addr: []byte{3}, probe: key{addr: 0x10, key: 0x20}, nonce: 0x0102030405060708}
	mappedValue   = mapped{slots: 16384, headerBytes: 3, pages: key{1, 2}, headers: key{3, 4}}
)

const (
	goldenAttach   = `01 02 0300746370 03003a3a31 010062 02000102`
	goldenAttached = `02 010003 1000000000000000 2000000000000000 0807060504030201`
	goldenMap      = `02 0807060504030201`
	goldenEcho     = `03 e803`
	goldenMapped   = `00400000 03000000 0100000000000000 0200000000000000 0300000000000000 0400000000000000`
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGoldenMessages(t *testing.T) {
	equal := func(what string, got []byte, want string) {
		t.Helper()
		if !bytes.Equal(got, unhex(t, want)) {
			t.Errorf("%s\n%x\n%s", what, got, want)
		}
	}
	all := cmp.AllowUnexported(attach{}, attached{}, mapped{}, key{})
	equal("attach", attachValue.put(), goldenAttach)
	if got, err := parseAttach(unhex(t, goldenAttach)); err != nil || !cmp.Equal(got, attachValue, all) {
		t.Errorf("attach %+v, %v", got, err)
	}
	equal("attached", attachedValue.put(), goldenAttached)
	if got, err := parseAttached(unhex(t, goldenAttached)); err != nil || !cmp.Equal(got, attachedValue, all) {
		t.Errorf("attached %+v, %v", got, err)
	}
	equal("map", putMap(0x0102030405060708), goldenMap)
	if got, err := parseMap(unhex(t, goldenMap)); err != nil || got != 0x0102030405060708 {
		t.Errorf("map %x, %v", got, err)
	}
	equal("echo", putEcho(1000), goldenEcho)
	if got, err := parseEcho(unhex(t, goldenEcho)); err != nil || got != 1000 {
		t.Errorf("echo %d, %v", got, err)
	}
	equal("mapped", mappedValue.put(), goldenMapped)
	if got, err := parseMapped(unhex(t, goldenMapped)); err != nil || got != mappedValue {
		t.Errorf("mapped %+v, %v", got, err)
	}
}

// What a decoder takes, the encoder gives: cut off or with more at the end
// nothing is taken.
func FuzzMessages(f *testing.F) {
	f.Add(attachValue.put())
	f.Add(attachedValue.put())
	f.Add(putMap(9))
	f.Add(mappedValue.put())
	f.Add(putEcho(64))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(err error, again func() []byte) {
			if err == nil && !bytes.Equal(again(), b) {
				t.Errorf("%x was taken as %x", b, again())
			}
		}
		a, err := parseAttach(b)
		check(err, a.put)
		s, err := parseAttached(b)
		check(err, s.put)
		m, err := parseMapped(b)
		check(err, m.put)
		c, err := parseMap(b)
		check(err, func() []byte { return putMap(c) })
		n, err := parseEcho(b)
		check(err, func() []byte { return putEcho(n) })
	})
}
