package state

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"dmps/raid"
)

// TestShortageRelieved: a server that is short gives up what it wants to have
// back and not much more, a few members at a time, gets nothing meanwhile, and
// keeps the rest. All along the volume is healthy.
func TestShortageRelieved(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		shortageRelieved(t, &healer{t: rt, s: New(), lives: map[raid.ServerID]raid.Incarnation{}})
	})
}

func shortageRelieved(t *testing.T, h *healer) {
	for i := range 5 {
		h.register(raid.ServerID(fmt.Sprintf("s%d", i)))
	}
	h.do(Command{CreateVolume: &CreateVolume{Name: "v", Pages: 20000, Geometry: raid.Geometry{K: 2, M: 1}, ChunkSlots: 256, Seed: rapid.Uint64().Draw(h.t, "seed")}})
	h.do(Command{Attach: &Attach{Name: "v", Holder: "h"}})
	v, _ := h.s.VolumeByName("v")
	sv := h.s.Servers["s1"]
	had := sv.Chunks
	if had < 12 {
		t.Fatalf("only %d chunks to begin with", had)
	}
	const wanted = 6 << 20 // six chunks, headers not counted
	left := uint64(wanted)
	tell := func() {
		h.do(Command{Shortage: &Shortage{ID: "s1", Incarnation: 1, Short: true, Wanted: left}})
	}
	tell()
	rounds := 0
	for c := (&Heal{Limit: 100, Moves: 16}); h.s.WouldHeal(c); rounds++ {
		h.do(Command{Heal: c})
		moving := 0
		for _, g := range v.Groups {
			for _, p := range g.Pending {
				if p.Member.Server == "s1" {
					t.Fatal("a server that is short gets a member")
				}
				moving++
			}
		}
		if moving == 0 || moving > reliefMoves {
			t.Fatalf("%d members move", moving)
		}
		if hl := h.s.Health(v, nil); hl.State != Healthy {
			t.Fatalf("%+v", hl)
		}
		h.do(Command{Rebuilt: &Rebuilt{Volume: v.ID, Epoch: v.LastLease, Chunks: filling(v)}})
		f := Freed{ID: "s1", Incarnation: 1}
		for c, n := range sv.Freeing {
			f.Chunks = append(f.Chunks, c)
			left -= min(left, n)
		}
		tell() // with the same heartbeat, and before
		h.do(Command{Freed: &f})
	}
	if gone := had - sv.Chunks; rounds != 2 || gone != 6 {
		t.Fatalf("%d of %d members have left, in %d rounds", gone, had, rounds)
	}
	if h.s.MayHeal() {
		t.Error("it has what it wanted, it seems otherwise")
	}
	// A new volume does not go there either.
	h.do(Command{CreateVolume: &CreateVolume{Name: "w", Pages: 2000, Geometry: raid.Geometry{K: 2, M: 1}, ChunkSlots: 256}})
	w, _ := h.s.VolumeByName("w")
	for _, g := range w.Groups {
		for _, m := range g.Members {
			if m.Server == "s1" {
				t.Fatal("a new volume is placed on a server that is short")
			}
		}
	}
	h.do(Command{Shortage: &Shortage{ID: "s1", Incarnation: 1}})
	var kinds []string
	for _, e := range h.s.Events {
		if e.Server == "s1" {
			kinds = append(kinds, e.Kind)
		}
	}
	if fmt.Sprint(kinds) != "[server-joined server-short server-relieved]" {
		t.Error(kinds)
	}
	if len(h.s.candidates()) != 5 {
		t.Error("it gets no members after the shortage")
	}
}
