package nbd_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dmps/client"
	"dmps/client/devicetest"
	"dmps/client/nbd"
	"dmps/client/nbd/nbdtest"
)

const (
	pageSize = 4096

	eperm     = 1
	eio       = 5
	einval    = 22
	enospc    = 28
	eoverflow = 75
	enotsup   = 95
	eshutdown = 108
)

// connect connects and disconnects at the end of the test.
func connect(tb testing.TB, uri string, o nbdtest.Options) *nbdtest.Client {
	tb.Helper()
	c, err := nbdtest.Connect(uri, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Errorf("disconnect: %v", err)
		}
	})
	return c
}

// ok fails the test unless the reply is a success.
func ok(tb testing.TB, r nbdtest.Reply) nbdtest.Reply {
	tb.Helper()
	if r.Err != nil || r.Errno != 0 {
		tb.Fatalf("reply: errno %d %q, %v", r.Errno, r.Message, r.Err)
	}
	return r
}

// fill is n bytes that differ from page to page, and none of which is 0.
func fill(n int, seed byte) []byte {
	b := make([]byte, 0, n+len(pattern))
	for i := 0; len(b) < n; i++ {
		b = append(b, pattern[(i*31+int(seed))%4096:]...)
	}
	return b[:n]
}

var pattern = func() []byte {
	b := make([]byte, 12289)
	for i := range b {
		b[i] = byte(i/7) ^ byte(i>>8) | 1
	}
	return b
}()

func variants(t *testing.T, f func(t *testing.T, o nbdtest.Options)) {
	t.Run("structured", func(t *testing.T) { f(t, nbdtest.Options{}) })
	t.Run("simple", func(t *testing.T) { f(t, nbdtest.Options{Simple: true}) })
	t.Run("export name", func(t *testing.T) { f(t, nbdtest.Options{Simple: true, ExportName: true}) })
}

func TestReadWrite(t *testing.T) {
	variants(t, func(t *testing.T, o nbdtest.Options) {
		dev := devicetest.New(t, devicetest.NewDisk(36<<20), 2*client.MaxOpPages, false)
		_, uri := serve(t, nbd.Config{Exports: exports(dev)})
		c := connect(t, uri, o)
		if c.Size != 36<<20 {
			t.Errorf("size %d", c.Size)
		}
		for _, r := range []struct{ off, n int }{
			{0, 1}, {4095, 1}, {4095, 2}, {1, 4095}, {4096, 4096}, {100, 8192}, {12345, 131072},
			{36<<20 - 5, 5}, {1, 32 << 20},
		} {
			want := fill(r.n, byte(r.off))
			ok(t, c.Do(nbdtest.Write, 0, uint64(r.off), uint32(r.n), want))
			if !dev.Holds(int64(r.off), want) {
				t.Fatalf("%d bytes at %d: wrong on the device", r.n, r.off)
			}
			got := ok(t, c.Do(nbdtest.Read, 0, uint64(r.off), uint32(r.n), nil))
			if !bytes.Equal(got.Data, want) {
				t.Fatalf("%d bytes at %d: read back wrong", r.n, r.off)
			}
		}
		ok(t, c.Do(nbdtest.Read, 0, 0, 0, nil))
		ok(t, c.Do(nbdtest.Write, 0, 36<<20, 0, nil))
		ok(t, c.Do(nbdtest.Flush, 0, 0, 0, nil))
		ok(t, c.Do(nbdtest.Cache, 0, 7, 1<<20, nil))
	})
}

func TestStructuredContent(t *testing.T) {
	dev := devicetest.New(t, devicetest.NewDisk(1<<20), 1024, false)
	_, uri := serve(t, nbd.Config{Exports: exports(dev)})
	c := connect(t, uri, nbdtest.Options{})
	data := fill(pageSize, 3)
	// Pages: data, hole, hole, zeros that are stored, data.
	ok(t, c.Do(nbdtest.Write, 0, 0, pageSize, data))
	ok(t, c.Do(nbdtest.Write, 0, 3*pageSize, pageSize, make([]byte, pageSize)))
	ok(t, c.Do(nbdtest.Write, 0, 4*pageSize, pageSize, data))
	for _, r := range []struct {
		name          string
		off, n        int
		flags         uint16
		chunks, holes int
	}{
		{"data", 0, pageSize, 0, 1, 0},
		{"holes", pageSize, 3 * pageSize, 0, 1, 1},
		{"data, holes, data", 0, 5 * pageSize, 0, 3, 1},
		{"unaligned", 10, 4*pageSize + 10, 0, 3, 1},
		{"not fragmented", 0, 5 * pageSize, nbdtest.DF, 1, 0},
		{"one hole, not fragmented", 5000, 300, nbdtest.DF, 1, 1},
		{"nothing", 77, 0, 0, 0, 0},
		{"end of the device", 1<<20 - 1, 1, 0, 1, 1},
	} {
		t.Run(r.name, func(t *testing.T) {
			got := ok(t, c.Do(nbdtest.Read, r.flags, uint64(r.off), uint32(r.n), nil))
			if got.Chunks != r.chunks || got.Holes != r.holes {
				t.Errorf("%d chunks, %d holes; want %d and %d", got.Chunks, got.Holes, r.chunks, r.holes)
			}
			if !dev.Holds(int64(r.off), got.Data) {
				t.Error("wrong data")
			}
		})
	}
}

func TestTrimAndZero(t *testing.T) {
	const size = 72 << 20 // three pieces
	dev := devicetest.New(t, devicetest.NewDisk(size), 2*client.MaxOpPages, false)
	_, uri := serve(t, nbd.Config{Exports: exports(dev)})
	c := connect(t, uri, nbdtest.Options{})
	want := make([]byte, size)
	for off := 0; off < size; off += 8 << 20 {
		copy(want[off:], fill(8<<20, byte(off>>20)))
		ok(t, c.Do(nbdtest.Write, 0, uint64(off), 8<<20, want[off:off+8<<20]))
	}
	for _, r := range []struct {
		cmd, flags uint16
		off, n     int
	}{
		{nbdtest.WriteZeroes, 0, 5, 3},
		{nbdtest.WriteZeroes, nbdtest.NoHole | nbdtest.FUA, 4095, 2},
		{nbdtest.WriteZeroes, nbdtest.FastZero, 8192, 4096},
		{nbdtest.Trim, nbdtest.FUA, 20000, 12288},
		{nbdtest.WriteZeroes, 0, 32<<20 - 1, 32<<20 + 2},
		{nbdtest.Trim, 0, 31<<20 - 1, 41<<20 + 1},
	} {
		ok(t, c.Do(r.cmd, r.flags, uint64(r.off), uint32(r.n), nil))
		clear(want[r.off : r.off+r.n])
		if !dev.Holds(0, want) {
			t.Fatalf("command %d at %d of %d bytes: wrong on the device", r.cmd, r.off, r.n)
		}
	}
	if r := c.Do(nbdtest.WriteZeroes, nbdtest.FastZero, 1, 8190, nil); r.Errno != enotsup {
		t.Errorf("fast zeros without a whole page: errno %d", r.Errno)
	}
	dev.SetFault(func(op *client.Op) error {
		if op.Off >= 64<<20 {
			return client.ErrNoSpace
		}
		return nil
	})
	if r := c.Do(nbdtest.Trim, 0, 0, size, nil); r.Errno != eio {
		t.Errorf("a trim whose third piece fails: errno %d", r.Errno)
	}
}

type extent struct{ n, flags uint32 }

func extentsOf(list ...extent) (out []nbdtest.Extent) {
	for _, e := range list {
		out = append(out, nbdtest.Extent{Len: e.n, Flags: e.flags})
	}
	return out
}

func TestBlockStatus(t *testing.T) {
	dev := devicetest.New(t, devicetest.NewDisk(1<<20), 1024, false)
	_, uri := serve(t, nbd.Config{Exports: exports(dev)})
	c := connect(t, uri, nbdtest.Options{})
	ok(t, c.Do(nbdtest.Write, 0, 8192, 4096, fill(4096, 1)))
	for _, r := range []struct {
		flags  uint16
		off, n int
		want   []extent
	}{
		{0, 0, 1 << 20, []extent{{8192, 3}, {4096, 0}, {1<<20 - 12288, 3}}},
		{nbdtest.ReqOne, 0, 1 << 20, []extent{{8192, 3}}},
		{0, 8000, 200, []extent{{192, 3}, {8, 0}}},
		{0, 1<<20 - 1, 1, []extent{{1, 3}}},
	} {
		got := ok(t, c.Do(nbdtest.BlockStatus, r.flags, uint64(r.off), uint32(r.n), nil))
		if d := cmp.Diff(extentsOf(r.want...), got.Extents); d != "" {
			t.Errorf("%d bytes at %d: %s", r.n, r.off, d)
		}
	}
}

func TestManyExtents(t *testing.T) {
	const pages = 20000 // every second stored: more than one reply may carry
	dev := devicetest.New(t, devicetest.NewDisk(pages*pageSize), 64, false)
	for p := 0; p < pages; p += 2 {
		dev.Map(p, 1)
	}
	_, uri := serve(t, nbd.Config{Exports: exports(dev)})
	c := connect(t, uri, nbdtest.Options{})
	got := ok(t, c.Do(nbdtest.BlockStatus, 0, 0, pages*pageSize, nil)).Extents
	if len(got) != 8192 {
		t.Fatalf("%d extents", len(got))
	}
	for i, e := range got {
		if want := (nbdtest.Extent{Len: pageSize, Flags: uint32(i % 2 * 3)}); e != want {
			t.Fatalf("extent %d is %+v, want %+v", i, e, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	variants(t, func(t *testing.T, o nbdtest.Options) {
		dev := devicetest.New(t, devicetest.NewDisk(1<<20), 64, false)
		_, uri := serve(t, nbd.Config{Exports: exports(dev)})
		c := connect(t, uri, o)
		tooLong := uint32(eoverflow)
		if o.Simple {
			tooLong = einval
		}
		payload := fill(100, 1)
		for _, r := range []struct {
			cmd, flags uint16
			off        uint64
			n          uint32
			data       []byte
			want       uint32
		}{
			{nbdtest.Read, 0, 1 << 20, 1, nil, einval},
			{nbdtest.Read, 0, math.MaxUint64, 1, nil, einval},
			{nbdtest.Read, 0, math.MaxUint64 - 4095, 8192, nil, einval},
			{nbdtest.Read, 0, 0, 32<<20 + 1, nil, tooLong},
			{nbdtest.Read, 0x80, 0, 1, nil, einval},
			{nbdtest.Write, 0, 1<<20 - 50, 100, payload, enospc},
			{nbdtest.Write, 0, math.MaxUint64 - 50, 100, payload, einval},
			{nbdtest.Write, nbdtest.DF, 0, 100, payload, einval},
			{nbdtest.Write, 0, 0, 33 << 20, make([]byte, 33<<20), einval},
			{nbdtest.Trim, 0, 1 << 19, 1 << 20, nil, einval},
			{nbdtest.WriteZeroes, 0, 1 << 19, 1 << 20, nil, enospc},
			{nbdtest.Flush, 0, 1, 0, nil, einval},
			{nbdtest.Cache, 0, 1 << 20, 1, nil, einval},
			{nbdtest.BlockStatus, 0, 1 << 20, 1, nil, einval},
			{nbdtest.BlockStatus, 0, 0, 0, nil, einval},
			{99, 0, 0, 0, nil, einval},
		} {
			got := c.Do(r.cmd, r.flags, r.off, r.n, r.data)
			if got.Err != nil || got.Errno != r.want {
				t.Fatalf("command %d, flags %#x, %d bytes at %#x: errno %d, %v; want %d", r.cmd, r.flags, r.n, r.off, got.Errno, got.Err, r.want)
			}
			// The connection goes on, in step.
			ok(t, c.Do(nbdtest.Write, 0, 10, 100, payload))
			if got := ok(t, c.Do(nbdtest.Read, 0, 10, 100, nil)); !bytes.Equal(got.Data, payload) {
				t.Fatalf("after command %d: wrong data", r.cmd)
			}
		}
	})
}

func TestReadOnly(t *testing.T) {
	dev := devicetest.New(t, devicetest.NewDisk(1<<20), 64, false)
	_, uri := serve(t, nbd.Config{Exports: map[string]nbd.Export{"": {Device: dev, ReadOnly: true}}})
	c := connect(t, uri, nbdtest.Options{})
	if c.Flags&2 == 0 || c.Flags&(1<<5|1<<6) != 0 {
		t.Errorf("transmission flags %#x", c.Flags)
	}
	for _, cmd := range []uint16{nbdtest.Write, nbdtest.Trim, nbdtest.WriteZeroes} {
		var data []byte
		if cmd == nbdtest.Write {
			data = fill(10, 1)
		}
		if r := c.Do(cmd, 0, 0, 10, data); r.Errno != eperm {
			t.Errorf("command %d: errno %d", cmd, r.Errno)
		}
	}
	ok(t, c.Do(nbdtest.Read, 0, 0, 10, nil))
	ok(t, c.Do(nbdtest.Flush, 0, 0, 0, nil))
}

func TestDeviceErrors(t *testing.T) {
	for _, e := range []struct {
		err  error
		want uint32
	}{{client.ErrLost, eio}, {client.ErrNoSpace, eio}, {client.ErrClosed, eshutdown}, {client.ErrRange, einval}, {errors.New("?"), eio}} {
		t.Run(e.err.Error(), func(t *testing.T) {
			variants(t, func(t *testing.T, o nbdtest.Options) {
				dev := devicetest.New(t, devicetest.NewDisk(1<<20), 64, false)
				_, uri := serve(t, nbd.Config{Exports: exports(dev)})
				c := connect(t, uri, o)
				dev.SetFault(func(*client.Op) error { return fmt.Errorf("page 7: %w", e.err) })
				r := c.Do(nbdtest.Read, 0, 5000, 9000, nil)
				if r.Errno != e.want {
					t.Errorf("read: errno %d, want %d", r.Errno, e.want)
				}
				if !o.Simple && (r.ErrOffset != 5000 || r.Message != "page 7: "+e.err.Error()) {
					t.Errorf("error chunk says %q at %d", r.Message, r.ErrOffset)
				}
				for _, cmd := range []uint16{nbdtest.Trim, nbdtest.WriteZeroes, nbdtest.Cache} {
					if r := c.Do(cmd, 0, 0, 9000, nil); r.Errno != e.want {
						t.Errorf("command %d: errno %d, want %d", cmd, r.Errno, e.want)
					}
				}
				if r := c.Do(nbdtest.Write, 0, 1, 9000, fill(9000, 1)); r.Errno != e.want {
					t.Errorf("write: errno %d, want %d", r.Errno, e.want)
				}
				if r := c.Do(nbdtest.Flush, 0, 0, 0, nil); r.Errno != e.want {
					t.Errorf("flush: errno %d, want %d", r.Errno, e.want)
				}
				dev.SetFault(nil)
				ok(t, c.Do(nbdtest.Write, 0, 1, 9000, fill(9000, 1)))
			})
		})
	}
}
