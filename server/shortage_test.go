package server

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"dmps/raid"
	"dmps/transport"
)

// A shortage begins after some bad looks in a row and ends after many good
// ones: one that wavers around a mark changes nothing.
func TestGauge(t *testing.T) {
	g := gauge{c: Shortage{LowPercent: 10, Pressure: 10}}
	look := func(available uint64, some float64, want bool) {
		t.Helper()
		g.look(HostMemory{Total: 1000, Available: available, Some: some}, 1600)
		if g.short != want {
			t.Fatalf("%d available, pressure %g: short %v", available, some, g.short)
		}
	}
	for range 10 { // never three in a row
		look(99, 0, false)
		look(50, 0, false)
		look(100, 0, false)
	}
	look(99, 0, false)
	look(99, 0, false)
	look(99, 0, true)
	if g.wantedBytes != 51 {
		t.Fatalf("%d bytes wanted", g.wantedBytes)
	}
	for range 100 { // between the marks nothing changes
		look(149, 0, true)
	}
	for range looksRelieved - 1 {
		look(150, 0, true)
	}
	look(149, 0, true)
	for range looksRelieved - 1 {
		look(200, 4, true)
	}
	look(200, 4, false)
	// Pressure alone.
	look(900, 10, false)
	look(900, 12, false)
	look(900, 10, true)
	if g.wantedBytes != 100 {
		t.Fatalf("%d bytes wanted", g.wantedBytes)
	}
	for range 100 {
		look(900, 6, true)
	}
	g = gauge{c: Shortage{Pressure: 10}}
	for range 100 {
		look(1, 0, false) // no low mark
	}
}

func TestLookAtHost(t *testing.T) {
	const sound = "MemTotal:       24568 kB\nMemFree:  3 kB\nMemAvailable:    1000 kB\nHugePages_Total: 0\n"
	const pressed = "some avg10=1.50 avg60=0.03 avg300=0.00 total=56\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=1\n"
	for name, c := range map[string]struct {
		meminfo, pressure string // "": no such file
		want              HostMemory
		ok                bool
	}{
		"all":               {sound, pressed, HostMemory{Total: 24568 << 10, Available: 1000 << 10, Some: 1.5, Full: 0.25}, true},
		"no pressure":       {sound, "", HostMemory{Total: 24568 << 10, Available: 1000 << 10}, true},
		"pressure is cut":   {sound, "some avg10=x", HostMemory{}, false},
		"pressure is empty": {sound, "\n", HostMemory{}, false},
		"none available":    {"MemTotal:       24568 kB\n", pressed, HostMemory{}, false},
		"nothing":           {"", "", HostMemory{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{"meminfo": c.meminfo, "pressure/memory": c.pressure} {
				if text == "" {
					continue
				}
				path := filepath.Join(dir, file)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			if m, err := lookAtHost(dir); m != c.want || (err == nil) != c.ok {
				t.Errorf("%+v, %v", m, err)
			}
		})
	}
	if m, err := lookAtHost("/proc"); err != nil || m.Available > m.Total {
		t.Fatalf("%+v %v", m, err)
	}
}

// resident counts the bytes of a chunk's memory that exist.
func resident(t *testing.T, mem []byte) int {
	t.Helper()
	vec := make([]byte, (len(mem)+os.Getpagesize()-1)/os.Getpagesize())
	if err := mincore(mem, vec); err != nil {
		t.Skip("mincore: ", err)
	}
	n := 0
	for _, v := range vec {
		n += int(v&1) * os.Getpagesize()
	}
	return n
}

// TestShortage: while the host is short, the memory of dropped chunks is the
// system's; the server lends what it has left, and all of it when the shortage
// is over.
func TestShortage(t *testing.T) {
	s, err := New(Config{ID: "s", Memory: 8 << 20, AllowSwappable: true, Cluster: "c", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	open := func() transport.Session {
		ss, _, err := s.Open(t.Context(), transport.Hello{Cluster: "c", Volume: 1, Epoch: 1}, func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		return ss
	}
	ss := open()
	defer func() { ss.Close() }()
	spec := transport.ChunkSpec{Slots: 250, HeaderBytes: raid.HeaderSize}
	size := uint64(chunkSize(spec))
	for id := range uint64(4) {
		if err := ss.OpenChunk(id+1, spec); err != nil {
			t.Fatal(err)
		}
	}
	mem := s.lookup(2).pages
	for i := range mem {
		mem[i] = 7
	}
	g := gauge{c: Shortage{Low: 100 << 20}}
	for range looksShort {
		s.lookedAt(&g, HostMemory{Total: 1 << 30, Available: 90 << 20})
	}
	if st := s.Stats(); !st.Short || st.WantedFree != 60<<20 || st.MemoryTotal != 8<<20 || st.MemoryUsed != 4*size {
		t.Fatalf("%+v", st)
	}
	// What a session has open stays, whoever asks for it.
	if got := s.Drop([]raid.ChunkID{2, 3}); len(got) != 0 {
		t.Fatalf("dropped %v, which is open", got)
	}
	release := spec
	release.Release = true
	if err := ss.OpenChunk(2, release); err != nil {
		t.Fatal(err)
	}
	if got := s.Drop([]raid.ChunkID{2, 3}); len(got) != 1 {
		t.Fatalf("dropped %v, and chunk 2 was released", got)
	}
	swept(t, s)
	if st := s.Stats(); st.MemoryTotal != 8<<20-size || st.MemoryUsed != 3*size || st.WantedFree != 60<<20-size {
		t.Fatalf("%+v", st)
	}
	if n := resident(t, mem); n > os.Getpagesize() {
		t.Fatalf("%d bytes of the dropped chunk exist", n)
	}
	spec.MustExist = true
	if err := ss.OpenChunk(2, spec); !errors.Is(err, transport.ErrNoChunk) {
		t.Fatal(err)
	}
	spec.MustExist = false
	// Over, but lent again only when that leaves the host well above its mark.
	for range looksRelieved {
		s.lookedAt(&g, HostMemory{Total: 1 << 30, Available: 160 << 20})
	}
	if st := s.Stats(); st.Short || st.MemoryTotal != 8<<20-size {
		t.Fatalf("%+v", st)
	}
	s.lookedAt(&g, HostMemory{Total: 1 << 30, Available: 400 << 20})
	if st := s.Stats(); st.MemoryTotal != 8<<20 || st.MemoryUsed != 3*size {
		t.Fatalf("%+v", st)
	}
	for id := uint64(10); s.Stats().MemoryTotal-s.Stats().MemoryUsed >= size; id++ {
		if err := ss.OpenChunk(id, spec); err != nil {
			t.Fatal(err)
		}
		for _, b := range s.lookup(raid.ChunkID(id)).pages {
			if b != 0 {
				t.Fatal("another chunk's bytes are seen")
			}
		}
	}
}

// TestWatchMemory: the watch does nothing by itself, and ends.
func TestWatchMemory(t *testing.T) {
	var looks atomic.Int32
	look := make(chan struct{}, 100)
	s, err := New(Config{ID: "s", Memory: 1 << 20, AllowSwappable: true, Log: slog.New(slog.DiscardHandler), Shortage: Shortage{
		Low: 1 << 20,
		Look: func() (HostMemory, error) {
			looks.Add(1)
			look <- struct{}{}
			return HostMemory{}, errors.New("cannot look")
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	<-look
	<-look
	if st := s.Stats(); st.Short || st.MemoryTotal != 1<<20 {
		t.Fatalf("%+v", st)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func mincore(mem, vec []byte) error {
	_, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(addrOf(mem)), uintptr(len(mem)), uintptr(addrOf(vec)))
	if e != 0 {
		return e
	}
	return nil
}

func addrOf(b []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(b)) }
