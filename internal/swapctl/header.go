package swapctl

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrNotEmpty says that a device holds something that mkswap would destroy.
var ErrNotEmpty = errors.New("the device is not empty")

// HeaderBytes is how much of a device its header takes, from the beginning on.
const HeaderBytes = 4096

const (
	pageSize   = HeaderBytes
	signature  = "SWAPSPACE2" // the last bytes of the first page
	infoAt     = 1024         // union swap_header of include/linux/swap.h: bootbits before it
	labelLen   = 16
	minPages   = 10 // what the kernel takes
	probeBytes = 1 << 20

	// Behind the label are 468 bytes that nobody uses (padding): there lies which
	// boot of which machine has swapped to the device last.
	bootAt  = infoAt + 44
	bootTag = "dmps boot 1 " // and then the boot's id
	bootLen = 64
)

// Header is the first page of swap space: union swap_header in
// include/linux/swap.h, in the byte order of x86.
type Header struct {
	Pages uint32 // of the whole device, this one included
	UUID  [16]byte
	Label string // at most 16 bytes
	Boot  string // that swapped to it last; "": nobody knows
}

// NewHeader is the header of a device of size bytes.
func NewHeader(size int64, label string) (Header, error) {
	pages := size / pageSize
	if pages < minPages || pages > 1<<32-1 {
		return Header{}, fmt.Errorf("swap space of %d bytes: 10 to 2^32-1 pages of 4 KiB are possible", size)
	}
	h := Header{Pages: uint32(pages), Label: label[:min(len(label), labelLen)]}
	rand.Read(h.UUID[:]) // does not fail
	h.UUID[6] = h.UUID[6]&0x0f | 0x40
	h.UUID[8] = h.UUID[8]&0x3f | 0x80
	return h, nil
}

// encode is the page.
func (h *Header) encode() []byte {
	b := make([]byte, pageSize)
	binary.LittleEndian.PutUint32(b[infoAt:], 1)           // version
	binary.LittleEndian.PutUint32(b[infoAt+4:], h.Pages-1) // last page
	copy(b[infoAt+12:], h.UUID[:])                         // after the number of bad pages
	copy(b[infoAt+28:infoAt+28+labelLen], h.Label)
	copy(b[pageSize-len(signature):], signature)
	if h.Boot != "" {
		copy(b[bootAt:bootAt+bootLen], bootTag+h.Boot)
	}
	return b
}

// Decode reads a page; false: it is no header.
func Decode(b []byte) (Header, bool) {
	if len(b) < pageSize || string(b[pageSize-len(signature):pageSize]) != signature ||
		binary.LittleEndian.Uint32(b[infoAt:]) != 1 {
		return Header{}, false
	}
	h := Header{Pages: binary.LittleEndian.Uint32(b[infoAt+4:]) + 1, Label: string(bytes.TrimRight(b[infoAt+28:infoAt+28+labelLen], "\x00"))}
	copy(h.UUID[:], b[infoAt+12:])
	if boot, ok := strings.CutPrefix(string(bytes.TrimRight(b[bootAt:bootAt+bootLen], "\x00")), bootTag); ok {
		h.Boot = boot
	}
	return h, true
}

// Device is what Format needs of a block device.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Prepared is what Format found or made.
type Prepared struct {
	Made bool // the header is new
	// Dead: nothing in the space is needed by the running kernel. Only then may it
	// be discarded: under a header that was found may lie what this boot has out,
	// by way of another device of the same volume.
	Dead bool
}

// Format makes a device of size bytes swap space, about to be used by a boot of
// this machine (its boot_id; "": unknown). One that is already, with the same
// label and size, is left as it is, but for whose boot uses it. Whatever else
// holds something in its first or last MiB is refused, unless force is set: no
// file system, partition table, RAID or LVM member leaves both empty. Errors:
// ErrNotEmpty.
func Format(dev Device, size int64, label, boot string, force bool) (Prepared, error) {
	h, err := NewHeader(size, label)
	if err != nil {
		return Prepared{}, err
	}
	if len(bootTag)+len(boot) <= bootLen {
		h.Boot = boot
	}
	probe := make([]byte, min(probeBytes, size))
	for _, at := range []int64{0, size - int64(len(probe))} {
		if n, err := dev.ReadAt(probe, at); err != nil && (!errors.Is(err, io.EOF) || n < len(probe)) {
			return Prepared{}, fmt.Errorf("looking for what the device holds: %w", err)
		}
		if at == 0 {
			if old, ok := Decode(probe); ok && old.Pages == h.Pages && old.Label == h.Label {
				return reuse(dev, probe[:pageSize], old.Boot, h.Boot)
			}
		}
		if i := bytes.IndexFunc(probe, func(r rune) bool { return r != 0 }); i >= 0 && !force {
			return Prepared{}, fmt.Errorf("%w: there is something at byte %d", ErrNotEmpty, at+int64(i))
		}
	}
	return Prepared{Made: true, Dead: true}, write(dev, h.encode())
}

// reuse notes in a header that was found that boot is about to swap to it. The
// space is dead if it was another boot that did so last: what that had out ended
// with it. Nothing else of the page changes.
func reuse(dev Device, page []byte, last, boot string) (Prepared, error) {
	if last == boot {
		return Prepared{}, nil
	}
	clear(page[bootAt : bootAt+bootLen])
	if boot != "" {
		copy(page[bootAt:], bootTag+boot)
	}
	// It lasts before swapon: a boot that swaps is never one that the header
	// does not know.
	return Prepared{Dead: last != "" && boot != ""}, write(dev, page)
}

func write(dev Device, page []byte) error {
	_, err := dev.WriteAt(page, 0)
	if err == nil {
		err = dev.Sync()
	}
	if err != nil {
		return fmt.Errorf("writing the swap header: %w", err)
	}
	return nil
}
