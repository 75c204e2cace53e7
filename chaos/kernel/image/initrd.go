package image

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cavaliergopher/cpio"
)

// Initrd is the guest's root file system: files by absolute path. The zero
// value is empty.
type Initrd struct {
	files map[string]file
}

type file struct {
	mode cpio.FileMode
	data []byte // of a file; the target of a link
}

// Add puts a file there. Folders come by themselves.
func (i *Initrd) Add(name string, perm os.FileMode, data []byte) {
	i.put(name, file{cpio.TypeReg | cpio.FileMode(perm.Perm()), data})
}

// AddLink puts a symbolic link there.
func (i *Initrd) AddLink(name, target string) {
	i.put(name, file{cpio.TypeSymlink | 0o777, []byte(target)})
}

// AddDir puts an empty folder there.
func (i *Initrd) AddDir(name string) { i.put(name, file{mode: cpio.TypeDir | 0o755}) }

func (i *Initrd) put(name string, f file) {
	if i.files == nil {
		i.files = make(map[string]file)
	}
	name = path.Clean("/" + name)
	i.files[name] = f
	for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
		if _, ok := i.files[dir]; !ok {
			i.files[dir] = file{mode: cpio.TypeDir | 0o755}
		}
	}
}

// AddHost puts a file of this machine there.
func (i *Initrd) AddHost(name, from string) error {
	st, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("a file for the guest: %w", err)
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("a file for the guest: %w", err)
	}
	i.Add(name, st.Mode(), b)
	return nil
}

// AddProgram puts a program of this machine at /bin, with the shared libraries
// that it is linked to, at the paths where it looks for them.
func (i *Initrd) AddProgram(name string) error {
	from, err := find(name)
	if err != nil {
		return fmt.Errorf("a program for the guest: %w", err)
	}
	return i.AddLinked("/bin/"+filepath.Base(name), from)
}

// AddLinked puts a program of this machine there, with its shared libraries.
func (i *Initrd) AddLinked(name, from string) error {
	if err := i.AddHost(name, from); err != nil {
		return err
	}
	libs, err := libraries(from)
	if err != nil {
		return err
	}
	for _, lib := range libs {
		if err := i.AddHost(lib, lib); err != nil {
			return err
		}
	}
	return nil
}

// find is where a program is. Those of an administrator are not in everybody's
// PATH.
func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if err == nil || strings.Contains(name, "/") {
			break
		}
		path, err = exec.LookPath(filepath.Join(dir, name))
	}
	return path, err
}

// libraries are the files that the dynamic linker maps for a program. It is
// asked itself: its search path is nobody else's business.
func libraries(program string) ([]string, error) {
	f, err := elf.Open(program)
	if err != nil {
		return nil, fmt.Errorf("a program for the guest: %w", err)
	}
	defer f.Close() // read only
	if f.Section(".dynamic") == nil {
		return nil, nil // static
	}
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		return nil, fmt.Errorf("libraries of %s: %w", program, err)
	}
	var libs []string
	for line := range strings.Lines(string(out)) {
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") {
				libs = append(libs, word)
			}
		}
		if strings.Contains(line, "not found") {
			return nil, fmt.Errorf("libraries of %s: %s", program, strings.TrimSpace(line))
		}
	}
	return libs, nil
}

// Write writes the archive, not packed: a guest under emulation reads faster
// than it unpacks.
func (i *Initrd) Write(w io.Writer) error {
	out := cpio.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(i.files)) {
		f := i.files[name]
		h := &cpio.Header{Name: strings.TrimPrefix(name, "/"), Mode: f.mode, Size: int64(len(f.data)), Links: 1}
		if f.mode&cpio.TypeSymlink == cpio.TypeSymlink {
			h.Linkname = string(f.data)
		}
		if err := out.WriteHeader(h); err != nil {
			return fmt.Errorf("the initrd: %s: %w", name, err)
		}
		if _, err := out.Write(f.data); err != nil {
			return fmt.Errorf("the initrd: %s: %w", name, err)
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("the initrd: %w", err)
	}
	return nil
}

// WriteFile writes the archive to a file.
func (i *Initrd) WriteFile(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("the initrd: %w", err)
	}
	b := bufio.NewWriterSize(f, 1<<20)
	return errors.Join(i.Write(b), b.Flush(), f.Close())
}
