package scenario

import (
	"context"
	"strings"
	"testing"
)

// TestHog: it goes through its memory in order and at random, and ends when it
// is told to.
func TestHog(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	last := -1
	err := Hog(ctx, 1, 7, func(turn, pages int) {
		if last = turn; turn == 3 {
			cancel()
		}
		want := 256 // of 1 MiB; at random, a quarter
		if turn == 2 {
			want = 64
		}
		if pages != want {
			t.Errorf("%d pages in turn %d", pages, turn)
		}
	})
	if err != nil || last != 3 {
		t.Errorf("after turn %d: %v", last, err)
	}
}

// TestHogSees: a page that is wrong, old, or another's is found.
func TestHogSees(t *testing.T) {
	h := &hog{mem: make([]byte, 4*page), seed: 1, version: make([]uint32, 4)}
	for name, damage := range map[string]func(){
		"nothing":     func() {},
		"zeros":       func() { clear(h.mem[:page]) },
		"another":     func() { copy(h.mem[:page], h.mem[page:2*page]) },
		"a torn page": func() { copy(h.mem[page/2:page], h.mem[page+page/2:]) },
		"a former version": func() {
			old := append([]byte(nil), h.mem[:page]...)
			h.write(0)
			copy(h.mem, old)
		},
	} {
		for i := range h.version {
			h.write(i)
			if strings.Trim(string(h.mem[i*page:][:8]), "\x00") == "" {
				t.Errorf("page %d begins with zeros: the kernel would not swap it", i)
			}
		}
		damage()
		if err := h.verify(0); (err == nil) != (name == "nothing") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
