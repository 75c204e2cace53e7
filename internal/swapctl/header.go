package swapctl

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrNotEmpty says that a device holds something that mkswap would destroy.
var ErrNotEmpty = errors.New("the device is not empty")

const (
	pageSize   = 4096
	signature  = "SWAPSPACE2" // the last bytes of the first page
	infoAt     = 1024         // union swap_header of include/linux/swap.h: bootbits before it
	labelLen   = 16
	minPages   = 10 // what the kernel takes
	probeBytes = 1 << 20
)

// Header is the first page of swap space: union swap_header in
// include/linux/swap.h, in the byte order of x86.
type Header struct {
	Pages uint32 // of the whole device, this one included
	UUID  [16]byte
	Label string // at most 16 bytes
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
	return b
}

// decode reads a page; false: it is no header.
func decode(b []byte) (Header, bool) {
	if len(b) < pageSize || string(b[pageSize-len(signature):pageSize]) != signature ||
		binary.LittleEndian.Uint32(b[infoAt:]) != 1 {
		return Header{}, false
	}
	h := Header{Pages: binary.LittleEndian.Uint32(b[infoAt+4:]) + 1, Label: string(bytes.TrimRight(b[infoAt+28:infoAt+28+labelLen], "\x00"))}
	copy(h.UUID[:], b[infoAt+12:])
	return h, true
}

// Device is what Format needs of a block device.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Format makes a device of size bytes swap space. One that is already, with the
// same label and size, is left as it is: made is false then. Whatever else
// holds something in its first or last MiB is refused, unless force is set: no
// file system, partition table, RAID or LVM member leaves both empty. Errors:
// ErrNotEmpty.
func Format(dev Device, size int64, label string, force bool) (made bool, err error) {
	h, err := NewHeader(size, label)
	if err != nil {
		return false, err
	}
	probe := make([]byte, min(probeBytes, size))
	for _, at := range []int64{0, size - int64(len(probe))} {
		if n, err := dev.ReadAt(probe, at); err != nil && (!errors.Is(err, io.EOF) || n < len(probe)) {
			return false, fmt.Errorf("looking for what the device holds: %w", err)
		}
		if at == 0 {
			if old, ok := decode(probe); ok && old.Pages == h.Pages && old.Label == h.Label {
				return false, nil
			}
		}
		if i := bytes.IndexFunc(probe, func(r rune) bool { return r != 0 }); i >= 0 && !force {
			return false, fmt.Errorf("%w: there is something at byte %d", ErrNotEmpty, at+int64(i))
		}
	}
	if _, err := dev.WriteAt(h.encode(), 0); err != nil {
		return false, fmt.Errorf("writing the swap header: %w", err)
	}
	if err := dev.Sync(); err != nil {
		return false, fmt.Errorf("writing the swap header: %w", err)
	}
	return true, nil
}
