package ublk

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"dmps/client"
	"dmps/internal/uring"
)

// realPort is a queue of the real kind on a file that stands in for the
// character device: descriptors at its beginning, data where copyAt says.
func realPort(t *testing.T, depth int) (*queuePort, *os.File) {
	t.Helper()
	p, err := newPort(0, depth)
	if errors.Is(err, uring.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "dev"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(pageUp(depth * ioDescSize))); err != nil {
		t.Fatal(err)
	}
	if err := p.attach(&charDev{int(f.Fd())}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.close(), f.Close()); err != nil {
			t.Error(err)
		}
	})
	return p, f
}

// TestPortWakes wakes a thread that sleeps in its ring, as often as needed, and
// allocates nothing for it.
func TestPortWakes(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, _ := realPort(t, 4)
	bell := make(chan struct{})
	go func() {
		for range bell {
			p.wake()
		}
	}()
	defer close(bell)
	once := func() {
		bell <- struct{}{}
		ev, ok := p.next()
		for !ok {
			if err := p.enter(true); err != nil {
				t.Fatal(err)
			}
			ev, ok = p.next()
		}
		if ev.kind != eventWake || ev.err != nil {
			t.Fatalf("event %+v", ev)
		}
	}
	if a := testing.AllocsPerRun(200, once); a >= 1 {
		t.Errorf("%v allocations per wake-up", a)
	}
}

// TestPortRefused sends commands to a file that takes none: each comes back as
// a failure of its tag.
func TestPortRefused(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, _ := realPort(t, 8)
	for tag := range uint16(8) {
		p.fetch(tag)
	}
	seen := make(map[uint16]bool)
	for len(seen) < 8 {
		if err := p.enter(true); err != nil {
			t.Fatal(err)
		}
		for ev, ok := p.next(); ok; ev, ok = p.next() {
			if ev.kind != eventFailed || !errors.Is(ev.err, unix.EOPNOTSUPP) || seen[ev.tag] {
				t.Fatalf("event %+v", ev)
			}
			seen[ev.tag] = true
		}
	}
}

// A command names its queue and its tag to the driver, and its tag to whoever reads
// its completion.
func TestPortCommand(t *testing.T) {
	p := &queuePort{queue: 2, dev: 7}
	for _, c := range []struct {
		op   uint32
		tag  uint16
		res  int32
		want string
	}{
		{cmdFetch, 5, 0, "02000500000000000000000000000000"},
		{cmdCommit, 0x103, 4096, "02000301001000000000000000000000"},
		{cmdCommit, 0xfff, -5, "0200ff0ffbffffff0000000000000000"},
	} {
		s, cmd := uring.SQE{}, make([]byte, ioCmdSize)
		p.fill(&s, cmd, c.op, c.tag, c.res)
		if s.Opcode != uring.OpURingCmd || s.FD != 7 || s.CmdOp != c.op || s.UserData != uint64(c.tag) {
			t.Errorf("tag %d: %+v", c.tag, s)
		}
		if got := hex.EncodeToString(cmd); binary.NativeEndian.Uint16([]byte{1, 0}) == 1 && got != c.want {
			t.Errorf("tag %d: %s, want %s", c.tag, got, c.want)
		}
	}
}

// The descriptor of a tag is read from that tag's place.
func TestPortDescriptors(t *testing.T) {
	p, f := realPort(t, 8)
	for tag := range uint16(8) {
		b := make([]byte, ioDescSize)
		binary.NativeEndian.PutUint32(b, opWrite|flagFUA)
		binary.NativeEndian.PutUint32(b[4:], uint32(tag)+1)
		binary.NativeEndian.PutUint64(b[8:], uint64(tag)<<20)
		if _, err := f.WriteAt(b, int64(tag)*ioDescSize); err != nil {
			t.Fatal(err)
		}
	}
	for tag := range uint16(8) {
		if got := p.desc(tag); got != (ioDesc{opWrite | flagFUA, uint32(tag) + 1, uint64(tag) << 20}) {
			t.Errorf("tag %d: %+v", tag, got)
		}
	}
}

// TestPortCopies copies parts of pages between a request and buffers that are
// anywhere, and notices when not all of it could be copied.
func TestPortCopies(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, f := realPort(t, 8)
	const tag, pages = 3, 5
	want := fill(pages*pageSize-612, 1)
	if _, err := f.WriteAt(want, copyAt(0, tag)); err != nil {
		t.Fatal(err)
	}
	var bufs []*client.Buf
	for range pages {
		bufs = append(bufs, &client.Buf{Page: make([]byte, pageSize)})
	}
	if err := p.load(tag, bufs, 100, int64(len(want))); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for _, b := range bufs {
		got = append(got, b.Page...)
	}
	if string(got[100:100+len(want)]) != string(want) {
		t.Error("the pages are not what was in the request")
	}
	bufs[0], bufs[4] = bufs[4], bufs[0]
	if err := p.store(tag+1, bufs, 100, int64(len(want))); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, len(want))
	if _, err := f.ReadAt(back, copyAt(0, tag+1)); err != nil {
		t.Fatal(err)
	}
	if string(back[:pageSize-100]) != string(bufs[0].Page[100:]) || string(back[pageSize-100:2*pageSize-100]) != string(bufs[1].Page) {
		t.Error("the request is not what was in the pages")
	}
	if err := p.load(tag+2, bufs, 0, 4*pageSize); err == nil {
		t.Error("a request without data was copied")
	}
	if err := p.load(tag, bufs[:2], 0, 3*pageSize); err == nil {
		t.Error("three pages were copied into two")
	}
	if a := testing.AllocsPerRun(100, func() {
		if err := p.load(tag, bufs, 100, int64(len(want))); err != nil {
			t.Fatal(err)
		}
	}); a != 0 {
		t.Errorf("%v allocations per copy", a)
	}
}
