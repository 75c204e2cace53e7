package devicetest

import (
	"bytes"
	"sync"
)

const pageSize = 4096

// Disk is what a volume keeps when its client is gone: one Device after the
// other can have it.
type Disk struct {
	mu     sync.Mutex
	data   []byte
	mapped []bool // by page: something is stored
}

// NewDisk is a disk of size bytes, whole pages, of which none is stored.
func NewDisk(size int64) *Disk { return DiskOf(make([]byte, size), false) }

// DiskOf is a disk whose content is data, which belongs to it from now on. With
// mapped, all pages are stored, and none otherwise.
func DiskOf(data []byte, mapped bool) *Disk {
	d := &Disk{data: data, mapped: make([]bool, len(data)/pageSize)}
	if mapped {
		d.Map(0, len(d.mapped))
	}
	return d
}

// Map makes n pages from page from on stored ones, as if they had been written.
func (d *Disk) Map(from, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range n {
		d.mapped[from+i] = true
	}
}

// Size is in bytes.
func (d *Disk) Size() int64 { return int64(len(d.data)) }

// Holds compares what is stored at off.
func (d *Disk) Holds(off int64, want []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Equal(d.data[off:off+int64(len(want))], want)
}
