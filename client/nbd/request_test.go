package nbd

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pojntfx/go-nbd/pkg/protocol"

	"dmps/client"
)

var headerOfWrite = []byte{
	0x25, 0x60, 0x95, 0x13, // magic
	0, 1, // FUA
	0, 1, // write
	1, 2, 3, 4, 5, 6, 7, 8, // handle
	0, 0, 0, 1, 0, 0, 0x10, 0, // offset
	0, 0, 2, 0, // length
}

func TestParseRequest(t *testing.T) {
	got, err := parseRequest(headerOfWrite)
	if err != nil {
		t.Fatal(err)
	}
	want := protocol.TransmissionRequestHeader{
		RequestMagic: 0x25609513, CommandFlags: cmdFlagFUA, Type: cmdWrite,
		Handle: 0x0102030405060708, Offset: 1<<32 + 4096, Length: 512,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	bad := append([]byte(nil), headerOfWrite...)
	bad[3]++
	if _, err := parseRequest(bad); !errors.Is(err, errMagic) {
		t.Errorf("wrong magic: %v", err)
	}
}

func TestCheck(t *testing.T) {
	const size = 1 << 30
	var (
		plain    = rules{size: size}
		modern   = rules{size: size, structured: true, allocation: true}
		readOnly = rules{size: size, structured: true, allocation: true, readOnly: true}
		huge     = rules{size: math.MaxInt64}
	)
	for _, c := range []struct {
		name  string
		rules rules
		cmd   uint16
		flags uint16
		off   uint64
		n     uint32
		want  Errno
	}{
		{"read", plain, cmdRead, 0, 1, 4095, 0},
		{"read to the end", plain, cmdRead, 0, size - 7, 7, 0},
		{"read nothing at the end", plain, cmdRead, 0, size, 0, 0},
		{"read past the end", plain, cmdRead, 0, size - 7, 8, errInval},
		{"read behind the end", plain, cmdRead, 0, size + 1, 0, errInval},
		{"read that wraps to 0", plain, cmdRead, 0, math.MaxUint64, 1, errInval},
		{"read that wraps", plain, cmdRead, 0, math.MaxUint64 - 4095, 8192, errInval},
		{"read that overflows int64", huge, cmdRead, 0, math.MaxInt64, 1, errInval},
		{"read with the top bit", huge, cmdRead, 0, 1 << 63, 1, errInval},
		{"read 32 MiB", plain, cmdRead, 0, 1, 32 << 20, 0},
		{"read more, simple", plain, cmdRead, 0, 0, 32<<20 + 1, errInval},
		{"read more, structured", modern, cmdRead, 0, 0, 32<<20 + 1, errOverflow},
		{"read FUA", plain, cmdRead, cmdFlagFUA, 0, 1, 0},
		{"read DF", modern, cmdRead, cmdFlagDF, 0, 1, 0},
		{"read DF, simple", plain, cmdRead, cmdFlagDF, 0, 1, errInval},
		{"read with an unknown flag", modern, cmdRead, 1 << 5, 0, 1, errInval},
		{"write", plain, cmdWrite, 0, 3, 3, 0},
		{"write FUA", plain, cmdWrite, cmdFlagFUA, 3, 3, 0},
		{"write DF", modern, cmdWrite, cmdFlagDF, 3, 3, errInval},
		{"write past the end", plain, cmdWrite, 0, size - 1, 2, errNoSpace},
		{"write behind the end", plain, cmdWrite, 0, size + 4096, 2, errNoSpace},
		{"write that wraps", plain, cmdWrite, 0, math.MaxUint64, 2, errInval},
		{"write too much", plain, cmdWrite, 0, 0, 32<<20 + 1, errInval},
		{"write read-only", readOnly, cmdWrite, 0, 0, 1, errPerm},
		{"trim", plain, cmdTrim, cmdFlagFUA, 0, size, 0},
		{"trim past the end", plain, cmdTrim, 0, 1, size, errInval},
		{"trim read-only", readOnly, cmdTrim, 0, 0, 1, errPerm},
		{"trim NO_HOLE", plain, cmdTrim, cmdFlagNoHole, 0, 1, errInval},
		{"zero", plain, cmdWriteZeroes, cmdFlagNoHole | cmdFlagFUA, 1, size - 1, 0},
		{"zero past the end", plain, cmdWriteZeroes, 0, 1, size, errNoSpace},
		{"zero read-only", readOnly, cmdWriteZeroes, 0, 0, 1, errPerm},
		{"zero fast", plain, cmdWriteZeroes, cmdFlagFastZero, 1, 8191, 0},
		{"zero fast, no whole page", plain, cmdWriteZeroes, cmdFlagFastZero, 1, 8190, errNotSup},
		{"zero fast, nothing", plain, cmdWriteZeroes, cmdFlagFastZero, 1, 0, 0},
		{"flush", plain, cmdFlush, 0, 0, 0, 0},
		{"flush FUA", plain, cmdFlush, cmdFlagFUA, 0, 0, 0},
		{"flush with offset", plain, cmdFlush, 0, 1, 0, errInval},
		{"flush with length", plain, cmdFlush, 0, 0, 1, errInval},
		{"flush read-only", readOnly, cmdFlush, 0, 0, 0, 0},
		{"cache", plain, cmdCache, 0, 5, 5, 0},
		{"cache too much", plain, cmdCache, 0, 0, 32<<20 + 1, errOverflow},
		{"cache past the end", plain, cmdCache, 0, size, 1, errInval},
		{"status", modern, cmdBlockStatus, cmdFlagReqOne, 0, size, 0},
		{"status of nothing", modern, cmdBlockStatus, 0, 0, 0, errInval},
		{"status past the end", modern, cmdBlockStatus, 0, 1, size, errInval},
		{"status without context", plain, cmdBlockStatus, 0, 0, 1, errInval},
		{"unknown command", modern, 8, 0, 0, 1, errInval},
		{"unknown command, far", modern, 0xffff, 0xffff, math.MaxUint64, math.MaxUint32, errInval},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := protocol.TransmissionRequestHeader{Type: c.cmd, CommandFlags: c.flags, Offset: c.off, Length: c.n}
			if got := c.rules.check(&h); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestErrnoOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Errno
	}{
		{nil, 0},
		{client.ErrClosed, errShutdown},
		{client.ErrFenced, errShutdown},
		{client.ErrRange, errInval},
		{client.ErrLost, errIO},
		{client.ErrNoSpace, errIO},
		{errors.New("anything else"), errIO},
	} {
		wrapped := c.err
		if wrapped != nil {
			wrapped = fmt.Errorf("page 7: %w", c.err)
		}
		if got := errnoOf(wrapped); got != c.want {
			t.Errorf("%v: got %v, want %v", c.err, got, c.want)
		}
	}
}

func TestPieces(t *testing.T) {
	for _, c := range []struct{ off, end, want int64 }{
		{0, 1, 1}, {0, maxPiece, maxPiece}, {0, maxPiece + 1, maxPiece}, {1, 3 * maxPiece, maxPiece - 1},
		{maxPiece, 3 * maxPiece, maxPiece}, {maxPiece - 1, maxPiece + 1, 1},
	} {
		if got := piece(c.off, c.end); got != c.want {
			t.Errorf("piece(%d, %d) = %d, want %d", c.off, c.end, got, c.want)
		}
	}
	for _, c := range []struct{ off, n, want int64 }{{0, 1, 1}, {4095, 1, 1}, {4095, 2, 2}, {0, 8192, 2}, {1, 8192, 3}, {1, 32 << 20, client.MaxOpPages}} {
		if got := pagesOf(c.off, c.n); got != c.want {
			t.Errorf("pagesOf(%d, %d) = %d, want %d", c.off, c.n, got, c.want)
		}
	}
}

func TestClip(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []client.Extent
		n    int64
		most int
		want []client.Extent
	}{
		{"nothing known", nil, 10, 5, []client.Extent{{Len: 10}}},
		{"as it is", []client.Extent{{Len: 4, Hole: true}, {Len: 6}}, 10, 5, []client.Extent{{Len: 4, Hole: true}, {Len: 6}}},
		{"too long", []client.Extent{{Len: 4}, {Len: 60, Zero: true}}, 10, 5, []client.Extent{{Len: 4}, {Len: 6, Zero: true}}},
		{"too many", []client.Extent{{Len: 4}, {Len: 6, Zero: true}}, 10, 1, []client.Extent{{Len: 4}}},
		{"beyond", []client.Extent{{Len: 10}, {Len: 6, Zero: true}}, 10, 5, []client.Extent{{Len: 10}}},
		{"empty", []client.Extent{{Len: 0, Hole: true}}, 10, 5, []client.Extent{{Len: 10}}},
	} {
		if d := cmp.Diff(c.want, clip(c.in, c.n, c.most)); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}
