package image

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ulikunitz/xz"
)

// Module is a kernel module, ready to be loaded.
type Module struct {
	Name string // with underscores, as lsmod prints it
	Code []byte // the ELF object
}

// Modules reads the modules with these names and all that they depend on, in
// an order in which they can be loaded. What is built into the kernel is left
// out.
func (k *Kernel) Modules(names ...string) ([]Module, error) {
	paths, err := k.paths()
	if err != nil {
		return nil, err
	}
	builtin, err := k.builtin()
	if err != nil {
		return nil, err
	}
	var loaded []Module
	seen := make(map[string]bool)
	var add func(name string) error
	add = func(name string) error {
		name = canonical(name)
		if seen[name] || builtin[name] {
			return nil
		}
		seen[name] = true
		path, ok := paths[name]
		if !ok {
			return fmt.Errorf("kernel %s has no module %s", k.Release, name)
		}
		code, err := readModule(path)
		if err != nil {
			return err
		}
		needs, err := depends(code)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return fmt.Errorf("%w, which %s needs", err, name)
			}
		}
		loaded = append(loaded, Module{Name: name, Code: code})
		return nil
	}
	for _, n := range names {
		if err := add(n); err != nil {
			return nil, err
		}
	}
	return loaded, nil
}

// canonical is the one name of a module: files and lists write dashes and
// underscores as they like.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// moduleName is the module of a file, if it is one.
func moduleName(path string) (string, bool) {
	name, _, ok := strings.Cut(filepath.Base(path), ".ko")
	return canonical(name), ok
}

func (k *Kernel) paths() (map[string]string, error) {
	paths := make(map[string]string)
	err := filepath.WalkDir(k.modules, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, ok := moduleName(path); ok && d.Type().IsRegular() {
			paths[name] = path
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing modules: %w", err)
	}
	return paths, nil
}

func (k *Kernel) builtin() (map[string]bool, error) {
	b, err := os.ReadFile(filepath.Join(k.modules, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("listing what is built in: %w", err)
	}
	names := make(map[string]bool)
	for line := range strings.Lines(string(b)) {
		if name, ok := moduleName(strings.TrimSpace(line)); ok {
			names[name] = true
		}
	}
	return names, nil
}

// readModule reads a module, packed or not.
func readModule(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a module: %w", err)
	}
	if !strings.HasSuffix(path, ".xz") {
		return b, nil
	}
	r, err := xz.NewReader(bytes.NewReader(b))
	if err == nil {
		b, err = io.ReadAll(r)
	}
	if err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", filepath.Base(path), err)
	}
	return b, nil
}

// depends are the modules that a module says it needs: the field of that name
// in its section .modinfo, strings that end with a zero byte. The file
// modules.dep says the same, but only once somebody has run depmod.
func depends(code []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(code))
	if err != nil {
		return nil, fmt.Errorf("not a module: %w", err)
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("not a module: no .modinfo")
	}
	info, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("reading .modinfo: %w", err)
	}
	for field := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := strings.CutPrefix(string(field), "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}
