package raid

import (
	"fmt"
	"strings"
	"testing"
)

func goodLayout() *Layout {
	l := &Layout{Geometry: Geometry{K: 2, M: 1}, Pages: 60, ChunkSlots: 10, MinAck: 3, Groups: make([]Group, 4)}
	for i := range l.Groups {
		l.Groups[i] = Group{ID: GroupID(i), Members: make([]Member, 3)}
		for c := range l.Groups[i].Members {
			l.Groups[i].Members[c] = Member{Server: ServerID(fmt.Sprint("s", c)), Chunk: ChunkID(i*3 + c + 1)}
		}
	}
	return l
}

func TestLayoutSizes(t *testing.T) {
	l := goodLayout()
	if err := l.Validate(); err != nil {
		t.Fatal(err)
	}
	if n := l.DataSlots(); n != 64 { // 4 groups of 10 rows, 2 of them for the view
		t.Errorf("%d data slots", n)
	}
	inPlace := &Layout{Kind: LayoutStriped, Geometry: Geometry{K: 1}, Pages: 40, ChunkSlots: 10, MinAck: 1, Groups: make([]Group, 4)}
	for i := range inPlace.Groups {
		inPlace.Groups[i] = Group{ID: GroupID(i), Members: []Member{{Server: "s", Chunk: ChunkID(i + 1)}}}
	}
	if err := inPlace.Validate(); err != nil || inPlace.DataSlots() != 40 {
		t.Errorf("in place %d data slots, %v", inPlace.DataSlots(), err)
	}
	if d, p := l.HeaderBytes(1), l.HeaderBytes(2); d != HeaderSize || p != HeaderSize+2*RowEntrySize {
		t.Errorf("headers of %d and %d bytes", d, p)
	}
}

// Each fault is found, and named.
func TestLayoutValidate(t *testing.T) {
	for _, test := range []struct {
		want string
		hurt func(l *Layout)
	}{
		{"redundancy", func(l *Layout) { l.Geometry.K = 0 }},
		{"unknown layout(7)", func(l *Layout) { l.Kind = 7 }},
		{"no redundancy", func(l *Layout) { l.Kind = LayoutStriped }},
		{"volume of 0 pages", func(l *Layout) { l.Pages = 0 }},
		{"volume of 2147483647 pages", func(l *Layout) { l.Pages = MaxPages + 1 }},
		{"no slots", func(l *Layout) { l.ChunkSlots = 0 }},
		{"no slots", func(l *Layout) { l.Groups = nil }},
		{"data slots, at most", func(l *Layout) { l.ChunkSlots = 1 << 30 }},
		{"only 64 data slots", func(l *Layout) { l.Pages = 65 }},
		{"no slots", func(l *Layout) { l.ChunkSlots = ViewRows }},
		{"only 0 data slots", func(l *Layout) { l.ChunkSlots = 1 }},
		{"4294967296 data slots, at most", func(l *Layout) { l.ChunkSlots = 1 << 29 }},
		{"min ack 1", func(l *Layout) { l.MinAck = 1 }},
		{"min ack 4", func(l *Layout) { l.MinAck = 4 }},
		{"group 3 stands at place 2", func(l *Layout) { l.Groups[2].ID = 3 }},
		{"group 1 has 2 members", func(l *Layout) { l.Groups[1].Members = l.Groups[1].Members[:2] }},
		{"group 0 has already", func(l *Layout) { l.Groups[3].Members[0].Chunk = 1 }},
		{"group 2 has already", func(l *Layout) { l.Groups[2].Members[2].Chunk = 7 }},
	} {
		l := goodLayout()
		test.hurt(l)
		if err := l.Validate(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("want %q, got %v", test.want, err)
		}
	}
	// All at once.
	l := goodLayout()
	l.Pages, l.MinAck, l.Groups[0].ID = 0, 9, 9
	err := l.Validate()
	for _, want := range []string{"volume of 0 pages", "min ack 9", "group 9 stands at place 0"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
}

func TestMemberStateString(t *testing.T) {
	for s, want := range map[MemberState]string{
		MemberInSync: "in-sync", MemberLost: "lost", MemberRebuilding: "rebuilding", 7: "member-state(7)",
	} {
		if s.String() != want {
			t.Errorf("%d is %q", uint8(s), s)
		}
	}
}
