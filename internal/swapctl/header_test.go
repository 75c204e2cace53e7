package swapctl

import (
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
	if made, err := Format(f, 4<<20, "swap0", false); !made || err != nil {
		t.Fatal(made, err)
	}
	if made, err := Format(f, 4<<20, "swap0", false); made || err != nil {
		t.Errorf("a second time: made %v, %v", made, err)
	}
	if made, err := Format(f, 4<<20, "other", false); made || !errors.Is(err, ErrNotEmpty) {
		t.Errorf("with another label: made %v, %v", made, err)
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
		if _, err := Format(f, size, "v", false); !errors.Is(err, ErrNotEmpty) {
			t.Errorf("a byte at %d: %v", at, err)
		}
		if made, err := Format(f, size, "v", true); !made || err != nil {
			t.Errorf("a byte at %d, by force: %v %v", at, made, err)
		}
	}
	if _, err := Format(blank(t, 9*pageSize), 9*pageSize, "v", false); err == nil {
		t.Error("nine pages are swap space")
	}
}

func FuzzDecode(f *testing.F) {
	h, err := NewHeader(1<<20, "label")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(h.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, ok := decode(b)
		if !ok {
			return
		}
		if again, ok := decode(h.encode()); !ok || again != h {
			t.Errorf("%+v becomes %+v", h, again)
		}
	})
}
