package server

import (
	"errors"
	"log/slog"
	"testing"

	"dmps/transport"
)

// A server that belongs to no cluster yet says who it is, to the metadata that looks, and
// does nothing else for anybody; later it says so to its own cluster.
func TestServerSaysWhoItIs(t *testing.T) {
	s, err := New(Config{ID: "s1", Memory: 1 << 20, AllowSwappable: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	open := func(h transport.Hello) (transport.Welcome, error) {
		ss, w, err := s.Open(t.Context(), h, func(error) {})
		if ss != nil {
			if err := ss.OpenChunk(1, transport.ChunkSpec{Slots: 16, HeaderBytes: 64}); !errors.Is(err, transport.ErrNoChunk) {
				t.Errorf("who only asks who it is made a chunk: %v", err)
			}
			ss.Close()
		}
		return w, err
	}
	who := transport.Hello{Cluster: "c", Mode: transport.ModeReader}
	if w, err := open(who); err != nil || w.Server != "s1" || w.Incarnation != uint64(s.incarnation) {
		t.Errorf("%+v, %v", w, err)
	}
	for what, h := range map[string]transport.Hello{
		"an owner":             {Cluster: "c", Mode: transport.ModeOwner},
		"a reader of a volume": {Cluster: "c", Volume: 1, Mode: transport.ModeReader},
	} {
		if _, err := open(h); !errors.Is(err, transport.ErrRefused) {
			t.Errorf("%s before there is a cluster: %v", what, err)
		}
	}
	if err := s.join("c"); err != nil {
		t.Fatal(err)
	}
	if _, err := open(who); err != nil {
		t.Error(err)
	}
	who.Cluster = "other"
	if _, err := open(who); !errors.Is(err, transport.ErrRefused) {
		t.Errorf("another cluster: %v", err)
	}
}
