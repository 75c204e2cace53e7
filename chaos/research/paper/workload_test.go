package paper

import (
	"dmps/chaos/figures"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDirectIO(t *testing.T) {
	const region = 256 << 10
	path := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(path, make([]byte, region), 0o644); err != nil {
		t.Fatal(err)
	}
	c := NewContent(1)
	for _, block := range []int{4 << 10, 64 << 10, 256 << 10} {
		a := Amount{Bytes: 2 * region}
		for _, op := range []string{figures.Write, figures.Read} {
			m, err := DirectIO(path, op, block, region, a, c)
			if errors.Is(err, unix.EINVAL) {
				t.Skipf("the file system of %s does no direct I/O", path)
			}
			if err != nil {
				t.Fatal(err)
			}
			if m.Bytes != a.Bytes || m.Seconds <= 0 {
				t.Errorf("%s in blocks of %d: %+v, want %d bytes", op, block, m, a.Bytes)
			}
		}
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Check(whole, 0); err != nil {
			t.Errorf("blocks of %d: %v", block, err)
		}
	}
	// A page that is not what was written is found.
	damage(t, path, 5*4096+3)
	if _, err := DirectIO(path, figures.Read, 64<<10, region, Amount{Bytes: region}, c); err == nil {
		t.Error("a damaged page was read and believed")
	}
	if _, err := DirectIO(path, figures.Read, 1000, region, Amount{Bytes: region}, c); err == nil {
		t.Error("blocks of 1000 bytes were accepted")
	}
}

func TestDirectIOEndsByTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(path, make([]byte, 64<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := DirectIO(path, figures.Write, 4096, 64<<10, Amount{Bytes: 1 << 40, Time: time.Millisecond}, NewContent(1))
	if errors.Is(err, unix.EINVAL) {
		t.Skip("no direct I/O here")
	}
	if err != nil || m.Bytes == 0 || m.Bytes >= 1<<40 {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	c := NewContent(2)
	for _, block := range []int{4096, 128 << 10} {
		w, err := WriteFile(path, block, 1<<20, c)
		if err != nil || w.Bytes != 1<<20 {
			t.Fatalf("%+v, %v", w, err)
		}
		r, err := ReadFile(path, block, c)
		if err != nil || r.Bytes != 1<<20 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	damage(t, path, 77*4096)
	if _, err := ReadFile(path, 4096, c); err == nil {
		t.Error("a damaged page was read and believed")
	}
}

func damage(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0]++
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestMessages(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- ServeMessages(l) }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range []string{PingPong, Stream} {
		for _, size := range []int{1, 4096, 1 << 20} {
			row, err := MeasureMessages(c, way, size, 5*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			if row.Count < 1 || row.Bytes != int64(row.Count)*int64(size) || row.MBps() <= 0 || row.Network != "tcp" {
				t.Errorf("%+v", row)
			}
		}
	}
	if err := errors.Join(c.Close(), l.Close(), <-served); err != nil {
		t.Error(err)
	}
}

func TestArray(t *testing.T) {
	a, err := NewArray(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := a.Read(); err == nil {
		t.Error("an array that nobody filled reads as filled")
	}
	if m := a.Fill(); m.Bytes != 1<<20 {
		t.Errorf("fill: %+v", m)
	}
	if m, err := a.Read(); err != nil || m.Bytes != 1<<20 {
		t.Errorf("read: %+v, %v", m, err)
	}
	if m, err := a.Random(1000, 1); err != nil || m.Bytes != 1000*4096 {
		t.Errorf("random: %+v, %v", m, err)
	}
	for p := 0; p < len(a.words); p += 1024 {
		if uniform(a.words[p : p+1024]) {
			t.Fatalf("the page at %d is all one value: the kernel would not swap it", p)
		}
		a.words[p+p/1024%1024]++
	}
	if _, err := a.Read(); err == nil {
		t.Error("a wrong number was not noticed in order")
	}
	for i := range a.words {
		a.words[i] = 0
	}
	if _, err := a.Random(2, 1); err == nil {
		t.Error("a wrong number was not noticed at random")
	}
}

func uniform(w []uint32) bool {
	for _, v := range w {
		if v != w[0] {
			return false
		}
	}
	return true
}
