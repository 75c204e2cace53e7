package swapctl

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func blank(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "device"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFormatIsRecognised(t *testing.T) {
	f := blank(t, 4<<20)
	if p, err := Format(f, 4<<20, "swap0", bootA, false); !p.Made || err != nil {
		t.Fatal(p, err)
	}
	if p, err := Format(f, 4<<20, "swap0", bootA, false); p.Made || err != nil {
		t.Errorf("a second time: %+v, %v", p, err)
	}
	if p, err := Format(f, 4<<20, "other", bootA, false); p.Made || !errors.Is(err, ErrNotEmpty) {
		t.Errorf("with another label: %+v, %v", p, err)
	}
	blkid, err := exec.LookPath("blkid")
	if err != nil {
		t.Skip("blkid, which says what others see, is not here")
	}
	out, err := exec.Command(blkid, "-p", f.Name()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{`TYPE="swap"`, `LABEL="swap0"`, `UUID="`} {
		if !strings.Contains(string(out), want) {
			t.Errorf("blkid says %s, without %s", out, want)
		}
	}
}

func TestFormatRefusesWhatHoldsSomething(t *testing.T) {
	const size = 8 << 20
	for _, at := range []int64{0, 1080, 4095, 1<<20 - 1, size - 1<<20, size - 1} {
		f := blank(t, size)
		if _, err := f.WriteAt([]byte{1}, at); err != nil {
			t.Fatal(err)
		}
		if _, err := Format(f, size, "v", bootA, false); !errors.Is(err, ErrNotEmpty) {
			t.Errorf("a byte at %d: %v", at, err)
		}
		if p, err := Format(f, size, "v", bootA, true); !p.Made || !p.Dead || err != nil {
			t.Errorf("a byte at %d, by force: %+v, %v", at, p, err)
		}
	}
	if _, err := Format(blank(t, 9*pageSize), 9*pageSize, "v", bootA, false); err == nil {
		t.Error("nine pages are swap space")
	}
}

const (
	bootA = "0a8cbd4d-2f6e-4b1a-9c52-5d7e8f901234"
	bootB = "1b9dce5e-3a7f-4c2b-8d63-6e8f90a12345"
)

// What lies under a header is dead when it was made now, or when another boot
// swapped to it last; and not when it is this boot, or nobody knows.
func TestDead(t *testing.T) {
	const size = 4 << 20
	for name, c := range map[string]struct {
		boots []string // of the attaches, one after the other
		dead  bool     // for the last
	}{
		"made":                        {[]string{bootA}, true},
		"made, no boot known":         {[]string{""}, true},
		"the same boot":               {[]string{bootA, bootA}, false},
		"the same boot, thrice":       {[]string{bootA, bootA, bootA}, false},
		"another boot":                {[]string{bootA, bootB}, true},
		"another boot, again":         {[]string{bootA, bootB, bootB}, false},
		"who was before is unknown":   {[]string{"", bootA}, false},
		"unknown, again":              {[]string{"", bootA, bootA}, false},
		"unknown, then another":       {[]string{"", bootA, bootB}, true},
		"who comes now is unknown":    {[]string{bootA, ""}, false},
		"nobody is known":             {[]string{"", ""}, false},
		"an unknown one came between": {[]string{bootA, "", bootB}, false},
		"an id that is too long":      {[]string{bootA, strings.Repeat("x", 60)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := blank(t, size)
			var p Prepared
			for i, boot := range c.boots {
				var err error
				if p, err = Format(f, size, "v", boot, false); err != nil || p.Made != (i == 0) {
					t.Fatalf("attach %d: %+v, %v", i, p, err)
				}
			}
			if p.Dead != c.dead {
				t.Errorf("dead: %v", p.Dead)
			}
		})
	}
}

// Noting the boot leaves all the rest of a header as somebody made it.
func TestHeaderIsKept(t *testing.T) {
	const size = 4 << 20
	f := blank(t, size)
	h, err := NewHeader(size, "v")
	if err != nil {
		t.Fatal(err)
	}
	page := h.encode()
	page[0], page[infoAt+8], page[bootAt+bootLen] = 1, 1, 7 // a boot sector, a bad page, and something behind
	if _, err := f.WriteAt(page, 0); err != nil {
		t.Fatal(err)
	}
	if p, err := Format(f, size, "v", bootA, false); p.Made || p.Dead || err != nil {
		t.Fatalf("%+v, %v", p, err)
	}
	got := make([]byte, pageSize)
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if h, ok := Decode(got); !ok || h.Boot != bootA {
		t.Errorf("the boot is %q", h.Boot)
	}
	clear(got[bootAt : bootAt+bootLen])
	if !bytes.Equal(got, page) {
		t.Error("something else was changed")
	}
}

// swapon discards what is there only if it is dead.
func TestOnFlags(t *testing.T) {
	for _, c := range []struct {
		priority int
		dead     bool
		want     uintptr
	}{{-1, true, 0x10000}, {-1, false, 0x50000}, {10, false, 0x5800a}, {1 << 20, true, 0x1ffff}} {
		if got := onFlags(c.priority, c.dead); got != c.want {
			t.Errorf("%d, dead %v: %#x, not %#x", c.priority, c.dead, got, c.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	h, err := NewHeader(1<<20, "label")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(h.encode())
	h.Boot = bootA
	f.Add(h.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, ok := Decode(b)
		if !ok {
			return
		}
		if again, ok := Decode(h.encode()); !ok || again != h {
			t.Errorf("%+v becomes %+v", h, again)
		}
	})
}
