package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrDamaged is a bbolt file that holds what bbolt never wrote.
var ErrDamaged = errors.New("the file is damaged")

// The layout of a bbolt file, of version 2.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageHead    = 16 // id u64, flags u16, count u16, overflow u32
	pageElem    = 16 // branch: pos u32, ksize u32, id u64; leaf: flags u32, pos u32, ksize u32, vsize u32
	bucketHead  = 16 // root u64, sequence u64
	noFreelist  = ^uint64(0)
	branchPage  = 0x01
	leafPage    = 0x02
	freePage    = 0x10
	bucketEntry = 0x01
)

// CheckFile walks all pages of a bbolt file, before bbolt does: that maps the file,
// and ends the process over a page that is not what it should be. A file that is not
// there, is empty, or is in use is left to bbolt. Errors: ErrDamaged.
func CheckFile(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		return nil
	} else if err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Size() == 0 {
		return nil
	}
	w := &pageWalk{f: f, size: uint64(st.Size()), seen: map[uint64]bool{}}
	if err := w.all(); err != nil {
		return fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	return nil
}

// pageWalk reads a file page by page.
type pageWalk struct {
	f    io.ReaderAt
	size uint64 // of the file, bytes
	page uint64 // size of one, bytes
	high uint64 // pages below are in use or free
	seen map[uint64]bool
}

func (w *pageWalk) all() error {
	meta, err := w.meta()
	if err != nil {
		return err
	}
	root, free := binary.LittleEndian.Uint64(meta[16:]), binary.LittleEndian.Uint64(meta[32:])
	w.high = binary.LittleEndian.Uint64(meta[40:])
	if w.high > w.size/w.page {
		return fmt.Errorf("it should have %d pages of %d bytes, and has %d bytes", w.high, w.page, w.size)
	}
	if free != noFreelist {
		b, flags, err := w.read(free)
		if err != nil || flags != freePage {
			return errors.Join(fmt.Errorf("page %d is not the list of free pages", free), err)
		}
		if err := w.free(b); err != nil {
			return fmt.Errorf("list of free pages, page %d: %w", free, err)
		}
	}
	return w.walk(root, nil, nil)
}

// free checks the list of free pages.
func (w *pageWalk) free(b []byte) error {
	n, ids := uint64(binary.LittleEndian.Uint16(b[10:])), b[pageHead:]
	if n == 0xFFFF { // it does not fit there
		n, ids = binary.LittleEndian.Uint64(ids), ids[8:]
	}
	if n > uint64(len(ids))/8 {
		return fmt.Errorf("%d entries in %d bytes", n, len(ids))
	}
	for i := range n {
		id := binary.LittleEndian.Uint64(ids[8*i:])
		if id < 2 || id >= w.high || w.seen[id] {
			return fmt.Errorf("page %d of %d, or twice", id, w.high)
		}
		w.seen[id] = true // who refers to it is wrong
	}
	return nil
}

// meta gives the newer of the two meta pages that are whole.
func (w *pageWalk) meta() (newest []byte, err error) {
	const size = 64
	for _, at := range []uint64{0, w.pageSize()} {
		b := make([]byte, pageHead+size)
		if n, _ := w.f.ReadAt(b, int64(at)); n < len(b) {
			continue // beyond the end
		}
		m := b[pageHead:]
		sum := fnv.New64a()
		_, _ = sum.Write(m[:size-8]) // a hash takes everything
		if binary.LittleEndian.Uint32(m) != boltMagic || binary.LittleEndian.Uint32(m[4:]) != boltVersion || binary.LittleEndian.Uint64(m[size-8:]) != sum.Sum64() {
			continue
		}
		if newest == nil || binary.LittleEndian.Uint64(m[48:]) > binary.LittleEndian.Uint64(newest[48:]) {
			newest = m
		}
	}
	if newest == nil {
		return nil, errors.New("neither of its first two pages is whole")
	}
	w.page = uint64(binary.LittleEndian.Uint32(newest[8:]))
	if w.page < 1024 || w.page > 1<<16 || w.page&(w.page-1) != 0 {
		return nil, fmt.Errorf("pages of %d bytes", w.page)
	}
	return newest, nil
}

// pageSize is that of the file as its first page says, if that is whole, else of this
// machine.
func (w *pageWalk) pageSize() uint64 {
	b := make([]byte, pageHead+12)
	if n, _ := w.f.ReadAt(b, 0); n == len(b) && binary.LittleEndian.Uint32(b[pageHead:]) == boltMagic {
		return uint64(binary.LittleEndian.Uint32(b[pageHead+8:]))
	}
	return uint64(os.Getpagesize())
}

// read gives a page with those that it overflows to.
func (w *pageWalk) read(id uint64) (b []byte, flags uint16, err error) {
	if id < 2 || id >= w.high {
		return nil, 0, fmt.Errorf("page %d of %d is referred to", id, w.high)
	}
	head := make([]byte, pageHead)
	if _, err := w.f.ReadAt(head, int64(id*w.page)); err != nil {
		return nil, 0, fmt.Errorf("page %d: %w", id, err)
	}
	more := uint64(binary.LittleEndian.Uint32(head[12:]))
	switch is := binary.LittleEndian.Uint64(head); {
	case is != id:
		return nil, 0, fmt.Errorf("page %d says that it is page %d", id, is)
	case id+more >= w.high:
		return nil, 0, fmt.Errorf("page %d goes on for %d pages, beyond the last", id, more)
	}
	for i := id; i <= id+more; i++ {
		if w.seen[i] {
			return nil, 0, fmt.Errorf("page %d is in two places", i)
		}
		w.seen[i] = true
	}
	b = make([]byte, (1+more)*w.page)
	if _, err := w.f.ReadAt(b, int64(id*w.page)); err != nil {
		return nil, 0, fmt.Errorf("page %d: %w", id, err)
	}
	return b, binary.LittleEndian.Uint16(head[8:]), nil
}

// walk checks a page and all below it: their keys are from least on, and below limit
// (nil: no bound).
func (w *pageWalk) walk(id uint64, least, limit []byte) error {
	b, flags, err := w.read(id)
	if err != nil {
		return err
	}
	if flags != branchPage && flags != leafPage {
		return fmt.Errorf("page %d is of no kind that belongs there (%#x)", id, flags)
	}
	if err := w.elements(b, flags, least, limit); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// elements checks what is on a page, or in a bucket that is stored in place.
func (w *pageWalk) elements(b []byte, flags uint16, least, limit []byte) error {
	n := int(binary.LittleEndian.Uint16(b[10:]))
	if pageHead+n*pageElem > len(b) || flags == branchPage && n == 0 {
		return fmt.Errorf("%d entries in %d bytes", n, len(b))
	}
	for i := range n {
		key, value, err := element(b, flags, i)
		if err != nil {
			return err
		}
		if c := bytes.Compare(key, least); c < 0 || c == 0 && i > 0 || limit != nil && bytes.Compare(key, limit) >= 0 {
			return fmt.Errorf("entry %d is out of order", i)
		}
		least = key
		e := b[pageHead+i*pageElem:]
		switch {
		case flags == branchPage:
			below := limit
			if i+1 < n {
				if below, _, err = element(b, flags, i+1); err != nil {
					return err
				}
			}
			if err := w.walk(binary.LittleEndian.Uint64(e[8:]), key, below); err != nil {
				return err
			}
		case binary.LittleEndian.Uint32(e)&bucketEntry != 0:
			if err := w.bucket(value); err != nil {
				return fmt.Errorf("bucket in entry %d: %w", i, err)
			}
		}
	}
	return nil
}

// element gives key and value of an entry.
func element(b []byte, flags uint16, i int) (key, value []byte, err error) {
	at := uint64(pageHead + i*pageElem)
	field := func(o uint64) uint64 { return uint64(binary.LittleEndian.Uint32(b[at+o:])) }
	pos, k, v := field(0), field(4), uint64(0)
	if flags == leafPage {
		pos, k, v = field(4), field(8), field(12)
	}
	if at+pos+k+v > uint64(len(b)) {
		return nil, nil, fmt.Errorf("entry %d reaches beyond it", i)
	}
	return b[at+pos:][:k], b[at+pos+k:][:v], nil
}

// bucket checks a bucket by its entry.
func (w *pageWalk) bucket(b []byte) error {
	if len(b) < bucketHead {
		return fmt.Errorf("%d bytes", len(b))
	}
	if root := binary.LittleEndian.Uint64(b); root != 0 {
		return w.walk(root, nil, nil)
	}
	b = b[bucketHead:]
	if len(b) < pageHead || binary.LittleEndian.Uint16(b[8:]) != leafPage {
		return errors.New("no page in it")
	}
	return w.elements(b, leafPage, nil, nil)
}
