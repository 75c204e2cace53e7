//go:build fabric && cgo

package fabric

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"dmps/transport"
)

// exposing is a Backend's session that shows one chunk.
type exposing struct {
	transport.Session
	mem []byte
}

func (e *exposing) Expose(id uint64) (transport.Exposed, error) {
	if id != 1 {
		return transport.Exposed{}, transport.ErrNoChunk
	}
	return transport.Exposed{Spec: transport.ChunkSpec{Slots: 1, HeaderBytes: 88}, Pages: e.mem[:transport.PageSize], Headers: e.mem[transport.PageSize:][:88]}, nil
}

func (e *exposing) Close() {}

// A client asks a server of shared memory and of sockets for anything: names of bells and
// regions that are not, of others, of files; questions cut off, changed, in any order.
// Each is answered or refused, and the server keeps nothing of it when the session ends.
func TestLyingClient(t *testing.T) {
	bell, err := newBell()
	if err != nil {
		t.Fatal(err)
	}
	defer bell.close()
	zeros := fmt.Sprintf("%032x", 0)
	mem, err := mapMemory(2 * transport.PageSize)
	if err != nil {
		t.Fatal(err)
	}
	defer unmapMemory(mem)
	files := openFiles(t)
	rapid.Check(t, func(rt *rapid.T) {
		s := &session{
			Session: &exposing{mem: mem}, stop: func(error) {},
			s: &Server{Providers: []string{"shm", "tcp"}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))},
		}
		s.s.prepare()
		defer s.Close()
		text := rapid.OneOf(
			rapid.SampledFrom([]string{
				"", "shm", "tcp", "verbs", "127.0.0.1", "::1", bell.name(), fmt.Sprintf("%d/0/%s", os.Getpid(), zeros), "1/1/" + zeros,
				"../../dev/zero", strings.Repeat("9", 40) + "/1/" + zeros, fmt.Sprintf("%d/%d/%s", os.Getpid(), bell.f.Fd(), zeros),
			}),
			rapid.StringN(0, 80, 200))
		address := rapid.OneOf(
			rapid.Map(rapid.SampledFrom([]string{"", "fi_shm://", "fi_shm://../../etc/passwd", "fi_shm://.", "fi_shm://not-there", "fi_shm://a\x00b"}), func(s string) []byte { return []byte(s) }),
			rapid.SliceOfN(rapid.Byte(), 0, 64))
		for range rapid.IntRange(1, 6).Draw(rt, "questions") {
			var q []byte
			switch rapid.IntRange(0, 3).Draw(rt, "kind") {
			case 0:
				a := attach{provider: text.Draw(rt, "provider"), host: text.Draw(rt, "host"), bell: text.Draw(rt, "bell"), addr: address.Draw(rt, "address")}
				if a.provider == "tcp" {
					a.provider = "shm" // endpoints over sockets cost milliseconds each: FuzzMessages has their frames
				}
				q = a.put()
			case 1:
				q = putMap(rapid.Uint64Range(0, 2).Draw(rt, "chunk"))
			case 2:
				q = putEcho(rapid.IntRange(0, 65535).Draw(rt, "bytes"))
			case 3:
				q = rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(rt, "bytes")
			}
			if rapid.Bool().Draw(rt, "cut off") {
				q = q[:rapid.IntRange(1, len(q)).Draw(rt, "length")]
			}
			if i := rapid.IntRange(-1, len(q)-1).Draw(rt, "changed"); i >= 0 {
				q[i] ^= rapid.Byte().Draw(rt, "by")
			}
			answer, err := s.Extend(q)
			if err == nil && (len(answer) > 64<<10 || q[0] != askEcho && s.target == nil) {
				rt.Fatalf("%x was answered with %d bytes", q, len(answer))
			}
			if err != nil && !errors.Is(err, transport.ErrRefused) && !errors.Is(err, transport.ErrNoChunk) {
				rt.Fatalf("%x: %v", q, err)
			}
		}
	})
	if now := openFiles(t); now > files+4 {
		t.Errorf("%d files are open, %d were", now, files)
	}
}

func openFiles(t *testing.T) int {
	l, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(l)
}
