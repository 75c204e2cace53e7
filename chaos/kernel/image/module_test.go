package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"
)

// object is an ELF object with nothing in it but a section .modinfo.
func object(t *testing.T, modinfo string) []byte {
	t.Helper()
	const head, entry = 64, 64
	names := "\x00.modinfo\x00.shstrtab\x00"
	at := uint64(head + len(modinfo) + len(names))
	var b bytes.Buffer
	for _, part := range []any{
		elf.Header64{
			Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
			Shoff: at, Ehsize: head, Shentsize: entry, Shnum: 3, Shstrndx: 2,
		},
		[]byte(modinfo), []byte(names),
		elf.Section64{},
		elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: head, Size: uint64(len(modinfo))},
		elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(head + len(modinfo)), Size: uint64(len(names))},
	} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// tree is an unpacked kernel with modules by path, each with what it depends on.
func tree(t *testing.T, builtin string, modules map[string]string) *Kernel {
	t.Helper()
	k := &Kernel{Release: "6.12", modules: t.TempDir()}
	write := func(name string, b []byte) {
		path := filepath.Join(k.modules, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("modules.builtin", []byte(builtin))
	for path, needs := range modules {
		code := object(t, "license=GPL\x00depends="+needs+"\x00name=x\x00")
		if strings.HasSuffix(path, ".xz") {
			var b bytes.Buffer
			w, err := xz.NewWriter(&b)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(code); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			code = b.Bytes()
		}
		write(path, code)
	}
	return k
}

func TestModules(t *testing.T) {
	k := tree(t, "kernel/fs/mbcache.ko\nkernel/lib/crc-32.ko\n", map[string]string{
		"kernel/fs/ext4/ext4.ko.xz": "jbd2,crc16,mbcache",
		"kernel/fs/jbd2/jbd2.ko":    "crc-32",
		"kernel/lib/crc16.ko.xz":    "",
		"kernel/drivers/nbd.ko":     "crc16",
		"kernel/broken.ko":          "nowhere",
	})
	mods, err := k.Modules("ext4", "nbd", "crc_32")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range mods {
		names = append(names, m.Name)
		if needs, err := depends(m.Code); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		} else {
			for _, n := range needs {
				// What is built in needs no place in the order.
				if n = canonical(n); n != "mbcache" && n != "crc_32" && !slices.Contains(names, n) {
					t.Errorf("%s comes before %s, which it needs: %v", m.Name, n, names)
				}
			}
		}
	}
	if slices.Sort(names); !slices.Equal(names, []string{"crc16", "ext4", "jbd2", "nbd"}) {
		t.Errorf("modules %v", names)
	}
	for _, name := range []string{"missing", "broken"} {
		if _, err := k.Modules(name); err == nil {
			t.Errorf("module %s can be loaded", name)
		}
	}
}

// FuzzDepends: what is no module is an error, never a panic.
func FuzzDepends(f *testing.F) {
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if needs, err := depends(b); err != nil && needs != nil {
			t.Error("needs and an error")
		}
	})
}
