package crashloop

import (
	"bytes"
	"testing"

	"dmps/raid"
)

// sheet is a volume of one page in a plain array, and the judge that watches it.
type sheet struct {
	t   *testing.T
	j   *judge
	mem []byte
}

func newSheet(t *testing.T) *sheet {
	return &sheet{t, newJudge(1), make([]byte, raid.PageSize)}
}

// content is the memory as it is after an op.
func (s *sheet) content(o *op) []byte {
	b := bytes.Clone(s.mem)
	for c := o.first; c < o.first+cell(o.n); c++ {
		o.value.put(c, b[c.offset():(c+1).offset()])
	}
	return b
}

// write is an op of some cells that takes effect. It returns what was there before.
func (s *sheet) write(first cell, n int, answered bool) (before []byte) {
	before = s.mem
	o := s.j.begin("write", 0, true, first, n)
	s.mem = s.content(o)
	s.j.end(o, answered)
	return before
}

// reads expects what a read of some content is judged as; "": right.
func (s *sheet) reads(b []byte, want Kind) {
	s.t.Helper()
	got := Kind("")
	for _, f := range s.j.read(s.j.time(), 0, cellsPerPage, b) {
		if got == "" {
			got = f.kind
		}
	}
	if got != want {
		s.t.Errorf("judged as %q, not %q", got, want)
	}
}

func TestJudge(t *testing.T) {
	for name, f := range map[string]func(s *sheet){
		"what was answered": func(s *sheet) {
			s.reads(s.mem, "")
			s.write(0, 4, true)
			s.reads(s.mem, "")
			s.write(1, 2, true)
			s.reads(s.mem, "")
		},
		"older than what was answered": func(s *sheet) {
			s.write(0, 4, true)
			old := s.write(0, 4, true)
			s.reads(old, Stale)
		},
		"older than a trim": func(s *sheet) {
			s.write(0, 4, true)
			o := s.j.begin("trim", 0, false, 0, 4)
			s.j.end(o, true)
			s.reads(s.mem, Stale)
			s.reads(s.content(o), "")
		},
		"a failed op may have happened, until another is answered": func(s *sheet) {
			old := s.write(0, 4, false)
			s.reads(old, "")
			s.reads(s.mem, "")
			failed := s.write(0, 4, true)
			s.reads(failed, Stale)
		},
		"what was read stays": func(s *sheet) {
			s.write(0, 4, true)
			old := s.write(0, 4, false)
			s.reads(old, "")
			s.reads(s.mem, "")
			s.reads(old, Stale)
		},
		"ops at a time in any order, but in one": func(s *sheet) {
			a := s.j.begin("a", 0, true, 0, 4)
			b := s.j.begin("b", 0, true, 0, 4)
			s.j.end(a, true)
			s.j.end(b, true)
			s.reads(s.content(a), "")
			s.reads(s.content(b), Stale)
		},
		"a read beside an op sees either": func(s *sheet) {
			began := s.j.time()
			old := s.write(0, 4, true)
			if f := s.j.read(began, 0, cellsPerPage, old); f != nil {
				s.t.Error(f)
			}
		},
		"a mixture": func(s *sheet) {
			old := s.write(0, 4, false)
			half := append(bytes.Clone(s.mem[:bounds[2]]), old[bounds[2]:]...)
			s.reads(half, Torn)
		},
		"another page": func(s *sheet) {
			o := s.j.begin("write", 0, true, 0, 4)
			b := make([]byte, raid.PageSize)
			for c := range cell(cellsPerPage) {
				o.value.put(c+cellsPerPage, b[c.offset():(c+1).offset()])
			}
			s.j.end(o, true)
			s.reads(b, Foreign)
		},
		"a changed byte": func(s *sheet) {
			s.write(0, 4, true)
			s.mem[2000] ^= 1
			s.reads(s.mem, Foreign)
		},
	} {
		t.Run(name, func(t *testing.T) { f(newSheet(t)) })
	}
}
