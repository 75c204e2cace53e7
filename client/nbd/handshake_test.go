package nbd

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"dmps/client"
)

// sized is a Device of which only the size is asked.
type sizedDevice struct {
	client.Device
	size int64
}

func (s sizedDevice) Size() int64 { return s.size }

func sized(n int64) client.Device { return sizedDevice{size: n} }

func opt(id uint32, data string) string {
	return string(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte("IHAVEOPT"), id), uint32(len(data)))) + data
}

func rep(id, typ uint32, data string) string {
	b := binary.BigEndian.AppendUint64(nil, 0x3e889045565a9)
	b = binary.BigEndian.AppendUint32(b, id)
	b = binary.BigEndian.AppendUint32(b, typ)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return string(b) + data
}

func str(s string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s
}

const (
	greeting   = "NBDMAGICIHAVEOPT\x00\x03"
	fixed      = "\x00\x00\x00\x01"
	noZeroes   = "\x00\x00\x00\x03"
	volSize    = "\x00\x00\x00\x00\x00\x10\x00\x00"
	volInfo    = "\x00\x00" + volSize + "\x0d\x6d" // HAS, FLUSH, FUA, TRIM, ZEROES, MULTI_CONN, CACHE, FAST_ZERO
	volInfoDF  = "\x00\x00" + volSize + "\x0d\xed"
	roInfo     = "\x00\x00" + "\x00\x00\x00\x00\x00\x00\x10\x00" + "\x05\x0f"
	blockSizes = "\x00\x03" + "\x00\x00\x00\x01" + "\x00\x00\x10\x00" + "\x02\x00\x00\x00"
	invalid    = uint32(0x80000003)
	alloc      = "\x00\x00\x00\x01base:allocation"
)

// errorOf stands for an error reply with any text.
func errorOf(id, typ uint32) string { return rep(id, typ, "*") }

// negotiations are the client's bytes and the server's answer. out "*" texts
// match anything. export is "" when the handshake ends without a session.
var negotiations = []struct {
	name   string
	in     string
	out    string
	export string
	check  func(rules) bool
}{
	{name: "hangs up at once", in: "", out: ""},
	{name: "unknown client flags", in: "\x00\x00\x00\x05", out: ""},
	{name: "wrong option magic", in: fixed + "IHAVEOPX\x00\x00\x00\x03\x00\x00\x00\x00", out: ""},
	{name: "ends between options", in: fixed, out: ""},
	{name: "ends inside an option", in: fixed + opt(7, str("vol")+"\x00\x00")[:20], out: ""},
	{name: "export name", in: fixed + opt(1, "vol"), out: volSize + "\x0d\x6d" + strings.Repeat("\x00", 124), export: "vol"},
	{name: "export name, no zeroes", in: noZeroes + opt(1, "vol"), out: volSize + "\x0d\x6d", export: "vol"},
	{name: "export name, not fixed", in: "\x00\x00\x00\x00" + opt(1, "vol"), out: volSize + "\x0d\x6d" + strings.Repeat("\x00", 124), export: "vol"},
	{name: "export name, default", in: noZeroes + opt(1, ""), out: volSize + "\x0d\x6d", export: "vol"},
	{name: "export name, unknown", in: noZeroes + opt(1, "nix"), out: ""},
	{name: "export name, not UTF-8", in: noZeroes + opt(1, "\xff\xfe"), out: ""},
	{name: "abort", in: fixed + opt(2, ""), out: rep(2, 1, "")},
	{name: "abort with data", in: fixed + opt(2, "bye"), out: rep(2, 1, "")},
	{name: "list", in: fixed + opt(3, "") + opt(2, ""),
		out: rep(3, 2, str("ro")+"for reading") + rep(3, 2, str("vol")) + rep(3, 1, "") + rep(2, 1, "")},
	{name: "list with data", in: fixed + opt(3, "x") + opt(2, ""), out: errorOf(3, invalid) + rep(2, 1, "")},
	{name: "TLS", in: fixed + opt(5, "") + opt(2, ""), out: errorOf(5, 0x80000002) + rep(2, 1, "")},
	{name: "TLS with data", in: fixed + opt(5, "x") + opt(2, ""), out: errorOf(5, invalid) + rep(2, 1, "")},
	{name: "unknown options", in: fixed + opt(4, "x") + opt(11, "") + opt(0xffffffff, "xyz") + opt(2, ""),
		out: errorOf(4, 0x80000001) + errorOf(11, 0x80000001) + errorOf(0xffffffff, 0x80000001) + rep(2, 1, "")},
	{name: "option too long", in: fixed + opt(4, strings.Repeat("x", 16<<10+1)) + opt(2, ""),
		out: errorOf(4, 0x80000009) + rep(2, 1, "")},
	{name: "option far too long", in: fixed + opt(4, strings.Repeat("x", 1<<20+1)) + opt(2, ""), out: ""},
	{name: "option longest of all", in: fixed + "IHAVEOPT\x00\x00\x00\x07\xff\xff\xff\xff", out: ""},
	{name: "info, then go", in: fixed + opt(6, str("vol")+"\x00\x00") + opt(7, str("vol")+"\x00\x01\x00\x03"),
		out: rep(6, 3, volInfo) + rep(6, 3, blockSizes) + rep(6, 1, "") +
			rep(7, 3, volInfo) + rep(7, 3, blockSizes) + rep(7, 1, ""), export: "vol"},
	{name: "go, all informations", in: fixed + opt(7, str("ro")+"\x00\x05\x00\x00\x00\x01\x00\x02\x00\x03\x77\x77"),
		out:    rep(7, 3, roInfo) + rep(7, 3, blockSizes) + rep(7, 3, "\x00\x01ro") + rep(7, 3, "\x00\x02for reading") + rep(7, 1, ""),
		export: "ro", check: func(r rules) bool { return r.readOnly && !r.structured }},
	{name: "go, the default's name", in: fixed + opt(7, str("")+"\x00\x01\x00\x01"),
		out: rep(7, 3, volInfo) + rep(7, 3, blockSizes) + rep(7, 3, "\x00\x01vol") + rep(7, 1, ""), export: "vol"},
	{name: "go, unknown, then known", in: fixed + opt(7, str("nix")+"\x00\x00") + opt(7, str("vol")+"\x00\x00"),
		out: errorOf(7, 0x80000006) + rep(7, 3, volInfo) + rep(7, 3, blockSizes) + rep(7, 1, ""), export: "vol"},
	{name: "go, malformed", in: fixed + opt(7, "") + opt(7, "\x00\x00") + opt(7, str("vol")) + opt(7, "\xff\xff\xff\xffvol\x00\x00") +
		opt(7, str("vol")+"\x00\x02\x00\x00") + opt(7, str("vol")+"\x00\x00\x00") + opt(7, str("a\x00b")+"\x00\x00") +
		opt(7, str(strings.Repeat("n", 4097))+"\x00\x00") + opt(2, ""),
		out: strings.Repeat(errorOf(7, invalid), 8) + rep(2, 1, "")},
	{name: "go as go-nbd sends it", in: "\x00\x00\x00\x00" + opt(7, "") + str("vol") + "\x00\x00",
		out: rep(7, 3, volInfo) + rep(7, 3, blockSizes) + rep(7, 1, ""), export: "vol"},
	{name: "go without data, not go-nbd", in: "\x00\x00\x00\x00" + opt(7, "") + opt(2, ""), out: ""},
	{name: "structured", in: fixed + opt(8, "") + opt(7, str("vol")+"\x00\x00"),
		out:    rep(8, 1, "") + rep(7, 3, volInfoDF) + rep(7, 3, blockSizes) + rep(7, 1, ""),
		export: "vol", check: func(r rules) bool { return r.structured && !r.allocation }},
	{name: "structured with data", in: fixed + opt(8, "x") + opt(2, ""), out: errorOf(8, invalid) + rep(2, 1, "")},
	{name: "list contexts", in: fixed + opt(8, "") +
		opt(9, str("vol")+"\x00\x00\x00\x00") + opt(9, str("vol")+"\x00\x00\x00\x01"+str("base:")) +
		opt(9, str("vol")+"\x00\x00\x00\x02"+str("x-y:z")+str("base:allocation")) + opt(9, str("vol")+"\x00\x00\x00\x01"+str("x-y:")) + opt(2, ""),
		out: rep(8, 1, "") + strings.Repeat(rep(9, 4, "\x00\x00\x00\x00base:allocation")+rep(9, 1, ""), 3) + rep(9, 1, "") + rep(2, 1, "")},
	{name: "set context", in: fixed + opt(8, "") + opt(10, str("vol")+"\x00\x00\x00\x02"+str("base:allocation")+str("base:nix")) + opt(7, str("")+"\x00\x00"),
		out:    rep(8, 1, "") + rep(10, 4, alloc) + rep(10, 1, "") + rep(7, 3, volInfoDF) + rep(7, 3, blockSizes) + rep(7, 1, ""),
		export: "vol", check: func(r rules) bool { return r.structured && r.allocation }},
	{name: "set context, then none", in: fixed + opt(8, "") + opt(10, str("vol")+"\x00\x00\x00\x01"+str("base:allocation")) +
		opt(10, str("vol")+"\x00\x00\x00\x01"+str("base:")) + opt(7, str("vol")+"\x00\x00"),
		out:    rep(8, 1, "") + rep(10, 4, alloc) + rep(10, 1, "") + rep(10, 1, "") + rep(7, 3, volInfoDF) + rep(7, 3, blockSizes) + rep(7, 1, ""),
		export: "vol", check: func(r rules) bool { return !r.allocation }},
	{name: "set context, then fail", in: fixed + opt(8, "") + opt(10, str("vol")+"\x00\x00\x00\x01"+str("base:allocation")) +
		opt(10, "") + opt(7, str("vol")+"\x00\x00"),
		out:    rep(8, 1, "") + rep(10, 4, alloc) + rep(10, 1, "") + errorOf(10, invalid) + rep(7, 3, volInfoDF) + rep(7, 3, blockSizes) + rep(7, 1, ""),
		export: "vol", check: func(r rules) bool { return !r.allocation }},
	{name: "set context of another export", in: fixed + opt(8, "") + opt(10, str("ro")+"\x00\x00\x00\x01"+str("base:allocation")) + opt(7, str("vol")+"\x00\x00"),
		out:    rep(8, 1, "") + rep(10, 4, alloc) + rep(10, 1, "") + rep(7, 3, volInfoDF) + rep(7, 3, blockSizes) + rep(7, 1, ""),
		export: "vol", check: func(r rules) bool { return !r.allocation }},
	{name: "set context, simple", in: fixed + opt(10, str("vol")+"\x00\x00\x00\x01"+str("base:allocation")) + opt(2, ""),
		out: errorOf(10, invalid) + rep(2, 1, "")},
	{name: "set context, unknown export", in: fixed + opt(8, "") + opt(10, str("nix")+"\x00\x00\x00\x01"+str("base:allocation")) + opt(2, ""),
		out: rep(8, 1, "") + errorOf(10, 0x80000006) + rep(2, 1, "")},
	{name: "contexts, malformed", in: fixed + opt(8, "") + opt(10, str("vol")) + opt(10, str("vol")+"\xff\xff\xff\xff") +
		opt(9, str("vol")+"\x00\x00\x00\x01\xff\xff\xff\xffbase") + opt(9, str("vol")+"\x00\x00\x00\x00x") + opt(2, ""),
		out: rep(8, 1, "") + strings.Repeat(errorOf(10, invalid), 2) + strings.Repeat(errorOf(9, invalid), 2) + rep(2, 1, "")},
}

func TestNegotiate(t *testing.T) {
	exports, err := newCatalog(map[string]Export{
		"vol": {Device: sized(1 << 20)},
		"ro":  {Device: sized(4096), ReadOnly: true, Description: "for reading"},
	}, "vol")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range negotiations {
		t.Run(c.name, func(t *testing.T) {
			const rest = "what comes after the negotiation"
			in := c.in
			if c.export != "" {
				in += rest
			}
			r, out := strings.NewReader(in), new(strings.Builder)
			s, err := negotiate(struct {
				io.Reader
				io.Writer
			}{r, out}, exports, func() bool { return false })
			if s != nil && r.Len() != len(rest) {
				t.Errorf("%d bytes left to read, want %d", r.Len(), len(rest))
			}
			if !sameReplies(out.String(), greeting+c.out) {
				t.Errorf("answer\n%q, want\n%q", out, greeting+c.out)
			}
			if (s != nil) != (c.export != "") || (s == nil) == (err == nil) {
				t.Fatalf("session %v, error %v", s, err)
			}
			if s != nil && (s.name != c.export || c.check != nil && !c.check(s.rules)) {
				t.Errorf("export %q, rules %+v", s.name, s.rules)
			}
		})
	}
}

// sameReplies compares byte by byte but for the texts of error replies.
func sameReplies(got, want string) bool {
	for want != "" {
		const magic = "\x00\x03\xe8\x89\x04\x55\x65\xa9"
		if strings.HasPrefix(want, magic) && strings.HasPrefix(got, magic) && len(got) >= 20 && want[12]&0x80 != 0 {
			n := int(binary.BigEndian.Uint32([]byte(got[16:20])))
			if got[:16] != want[:16] || len(got) < 20+n || n == 0 {
				return false
			}
			got, want = got[20+n:], want[21:]
			continue
		}
		if got == "" || got[0] != want[0] {
			return false
		}
		got, want = got[1:], want[1:]
	}
	return got == ""
}

func TestNegotiateWhileClosing(t *testing.T) {
	exports, err := newCatalog(map[string]Export{"vol": {Device: sized(1 << 20)}}, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ in, out string }{
		{fixed + opt(7, str("vol")+"\x00\x00") + opt(2, ""), greeting + errorOf(7, 0x80000007) + rep(2, 1, "")},
		{fixed + opt(1, "vol"), greeting},
	} {
		var out bytes.Buffer
		s, err := negotiate(struct {
			io.Reader
			io.Writer
		}{strings.NewReader(c.in), &out}, exports, func() bool { return true })
		if s != nil || err == nil || !sameReplies(out.String(), c.out) {
			t.Errorf("session %v, error %v, answer %q", s, err, out.String())
		}
	}
}

func TestCatalog(t *testing.T) {
	dev := client.Device(sized(4096))
	for _, c := range []struct {
		name    string
		exports map[string]Export
		def     string
		ok      bool
		empty   string // what the empty name finds
	}{
		{"none", nil, "", false, ""},
		{"one", map[string]Export{"a": {Device: dev}}, "", true, "a"},
		{"two", map[string]Export{"a": {Device: dev}, "b": {Device: dev}}, "", true, ""},
		{"two with a default", map[string]Export{"a": {Device: dev}, "b": {Device: dev}}, "b", true, "b"},
		{"default missing", map[string]Export{"a": {Device: dev}}, "c", false, ""},
		{"no device", map[string]Export{"a": {}}, "", false, ""},
		{"long name", map[string]Export{strings.Repeat("a", 4097): {Device: dev}}, "", false, ""},
		{"long description", map[string]Export{"a": {Device: dev, Description: strings.Repeat("a", 4097)}}, "", false, ""},
	} {
		cat, err := newCatalog(c.exports, c.def)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil {
			continue
		}
		if name, e := cat.lookup(""); name != c.empty || (e != nil) != (c.empty != "") {
			t.Errorf("%s: the empty name finds %q", c.name, name)
		}
	}
}
