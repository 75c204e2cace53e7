package badmem

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"dmps/raid"
)

// chunk is memory as a server has it: pages, and their headers behind them.
type chunk struct {
	mem  []byte
	size int // of a header
	n    int
}

func newChunk(t *testing.T, g raid.Geometry, col raid.Col, n int) *chunk {
	t.Helper()
	c := &chunk{size: raid.HeaderBytes(g, col), n: n}
	mem, err := unix.Mmap(-1, 0, n*(raid.PageSize+raid.MaxHeaderSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	c.mem = mem
	for i := range n {
		page := c.page(i)
		for j := range page {
			page[j] = byte(i*7 + j)
		}
		page[0], page[1] = byte(i), 0xab
		h := raid.Header{Kind: raid.KindPage, Page: raid.PageNo(i), Seq: raid.Seq(i + 1), Members: 1, Filled: 1, CRC: raid.Checksum(page)}
		var table []raid.RowEntry
		if c.size > raid.HeaderSize {
			h.Kind = raid.KindParity
			for k := range g.K {
				e := raid.RowEntry{}
				if k == 0 {
					e = raid.RowEntry{Page: raid.PageNo(i), Kind: raid.KindPage, CRC: h.CRC}
				}
				table = append(table, e)
			}
		}
		h.Put(c.head(i), table)
	}
	return c
}

func (c *chunk) page(i int) []byte { return c.mem[i*raid.PageSize:][:raid.PageSize] }
func (c *chunk) head(i int) []byte { return c.mem[c.n*raid.PageSize+i*c.size:][:c.size] }

// state tells how many slots hold what they did at first, and how many are sound.
func (c *chunk) state(t *testing.T) (same, sound int) {
	t.Helper()
	for i := range c.n {
		h, err := raid.ParseHeader(c.head(i))
		if err != nil || h.Kind == raid.KindEmpty || h.CRC != raid.Checksum(c.page(i)) {
			continue
		}
		sound++
		if h.Seq == raid.Seq(i+1) {
			same++
		}
	}
	return same, sound
}

func ok(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, ErrUnable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestSwap: slots of data and of parity change places, whole.
func TestSwap(t *testing.T) {
	g := raid.Geometry{K: 4, M: 2}
	for _, col := range []raid.Col{0, 4} {
		c := newChunk(t, g, col, 50)
		ok(t, Own(c.mem).Swap(g, 7, rand.New(rand.NewPCG(1, 1))))
		if same, sound := c.state(t); same != 36 || sound != 50 {
			t.Errorf("column %d: %d of 50 slots are sound and %d where they were, want 50 and 36", col, sound, same)
		}
		if err := Own(c.mem).Swap(g, 26, rand.New(rand.NewPCG(1, 1))); !errors.Is(err, ErrUnable) {
			t.Errorf("more pairs than there are: %v", err)
		}
	}
}

// TestZeroAndBack: all is gone, and comes back as it was saved.
func TestZeroAndBack(t *testing.T) {
	c := newChunk(t, raid.Geometry{K: 1, M: 1}, 0, 20)
	a := Own(c.mem)
	saved, err := a.Save()
	ok(t, err)
	ok(t, a.Zero())
	if bytes.Count(c.mem, []byte{0}) != len(c.mem) {
		t.Error("not all is zero")
	}
	ok(t, a.Put(saved))
	if same, _ := c.state(t); same != 20 {
		t.Errorf("%d of 20 slots are back", same)
	}
	if err := a.Flip(3, rand.New(rand.NewPCG(1, 1))); err != nil {
		t.Error(err)
	}
	if bytes.Equal(c.mem, saved) {
		t.Error("no byte was changed")
	}
}
