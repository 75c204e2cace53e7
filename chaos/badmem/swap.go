package badmem

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"

	"dmps/raid"
)

// slot is where a header and its page are in an arena.
type slot struct{ head, page int64 }

// headAlign divides the address of every header.
const headAlign = 8

// Swap has count pairs of slots change places, header and page: each is sound, and of
// another row. The slots are of a volume of the given geometry. Errors: ErrUnable.
func (a Arena) Swap(g raid.Geometry, count int, r *rand.Rand) (err error) {
	saved, err := a.Save()
	if err != nil {
		return err
	}
	mem, err := a.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	put := func(off int64, b []byte) {
		if _, werr := mem.WriteAt(b, a.at+off); werr != nil {
			err = errors.Join(err, unable("%v", werr))
		}
	}
	sizes := []int{raid.HeaderBytes(g, 0), raid.HeaderBytes(g, raid.Col(g.K))}
	for _, size := range slices.Compact(sizes) {
		slots := find(saved, size)
		r.Shuffle(len(slots), func(i, j int) { slots[i], slots[j] = slots[j], slots[i] })
		for ; len(slots) > 1 && count > 0; count-- {
			x, y := slots[0], slots[1]
			slots = slots[2:]
			put(x.head, saved[y.head:][:size])
			put(y.head, saved[x.head:][:size])
			put(x.page, saved[y.page:][:raid.PageSize])
			put(y.page, saved[x.page:][:raid.PageSize])
		}
	}
	if err == nil && count > 0 {
		return unable("too little is stored in %d bytes", a.size)
	}
	return err
}

// find looks through an arena for slots whose headers have a size, and whose pages
// are what their headers say. Of slots that hold the same it finds one.
func find(mem []byte, size int) []slot {
	pages := map[uint32]int64{} // checksum -> where
	var heads []int64
	empty := make([]byte, raid.PageSize)
	for off := 0; off+raid.PageSize <= len(mem); off += raid.PageSize {
		page := mem[off : off+raid.PageSize]
		if bytes.Equal(page, empty) {
			continue
		}
		pages[raid.Checksum(page)] = int64(off)
		for at := off; at < off+raid.PageSize && at+size <= len(mem); at += headAlign {
			if h, err := raid.ParseHeader(mem[at : at+size]); err == nil && h.Holds() {
				heads = append(heads, int64(at))
			}
		}
	}
	var slots []slot
	for _, at := range heads {
		h, err := raid.ParseHeader(mem[at : at+int64(size)])
		if page, ok := pages[h.CRC]; err == nil && ok {
			slots = append(slots, slot{at, page})
			delete(pages, h.CRC)
		}
	}
	return slots
}
