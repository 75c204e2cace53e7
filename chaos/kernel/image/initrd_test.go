package image

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cavaliergopher/cpio"
)

// TestInitrd: what goes in comes out, folders before what lies in them.
func TestInitrd(t *testing.T) {
	here := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(here, []byte("#!/bin/true\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var rd Initrd
	rd.Add("/etc/deep/file", 0o640, []byte("text"))
	rd.Add("empty", 0o600, nil)
	rd.AddDir("/proc")
	rd.AddLink("/bin/link", "program")
	if err := rd.AddHost("/bin/program", here); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := rd.Write(&b); err != nil {
		t.Fatal(err)
	}
	type entry struct {
		mode cpio.FileMode
		data string
	}
	want := map[string]entry{
		"etc": {cpio.TypeDir | 0o755, ""}, "etc/deep": {cpio.TypeDir | 0o755, ""}, "etc/deep/file": {cpio.TypeReg | 0o640, "text"},
		"empty": {cpio.TypeReg | 0o600, ""}, "proc": {cpio.TypeDir | 0o755, ""}, "bin": {cpio.TypeDir | 0o755, ""},
		"bin/link": {cpio.TypeSymlink | 0o777, "program"}, "bin/program": {cpio.TypeReg | 0o755, "#!/bin/true\n"},
	}
	r := cpio.NewReader(&b)
	seen := make(map[string]bool)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Linkname != "" {
			data = []byte(h.Linkname)
		}
		if got := (entry{h.Mode, string(data)}); got != want[h.Name] {
			t.Errorf("%s: %v %q, want %v %q", h.Name, got.mode, got.data, want[h.Name].mode, want[h.Name].data)
		}
		if dir := filepath.Dir(h.Name); dir != "." && !seen[dir] {
			t.Errorf("%s comes before its folder: the kernel would drop it", h.Name)
		}
		seen[h.Name] = true
	}
	if len(seen) != len(want) {
		t.Errorf("%d entries, want %d: %v", len(seen), len(want), seen)
	}
}

// TestAddProgram: a program comes with the libraries that it needs to start.
func TestAddProgram(t *testing.T) {
	if _, err := exec.LookPath("ldd"); err != nil {
		t.Skip("libraries are found with ldd: ", err)
	}
	var rd Initrd
	if err := rd.AddProgram("sh"); err != nil {
		t.Fatal(err)
	}
	if _, ok := rd.files["/bin/sh"]; !ok {
		t.Error("no /bin/sh")
	}
	path, err := find("sh")
	if err != nil {
		t.Fatal(err)
	}
	libs, err := libraries(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range libs {
		if f, ok := rd.files[l]; !ok || len(f.data) == 0 {
			t.Errorf("no %s", l)
		}
	}
	if err := rd.AddProgram("no-such-program-anywhere"); err == nil {
		t.Error("a program that is not there was added")
	}
}
