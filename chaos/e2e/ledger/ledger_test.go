package ledger

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a correct device, one block at a time, until it is told to misbehave.
type memory struct {
	mu   sync.Mutex
	data []byte

	misbehave func(m *memory, op string, off int64, p []byte) error // called with mu held
	todo      int                                                   // what misbehave has yet to do before a run may end
}

func newMemory(blocks int) *memory { return &memory{data: make([]byte, blocks*BlockSize)} }

func (m *memory) do(op string, p []byte, off int64, f func()) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	if m.misbehave != nil {
		if err := m.misbehave(m, op, off, p); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	return m.do("read", p, off, func() { copy(p, m.data[off:]) })
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	return m.do("write", p, off, func() { copy(m.data[off:], p) })
}

func (m *memory) Trim(off int64, n uint32) error {
	_, err := m.do("trim", nil, off, func() { clear(m.data[off : off+int64(n)]) })
	return err
}

// left says whether the device has something in store.
func (m *memory) left() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.todo
}

// run drives a device until it has misbehaved as it should, and checks it. (A
// count of requests would not do: on a busy machine one worker may stand still
// with its blocks claimed while the others do thousands.)
func run(t *testing.T, dev *memory, blocks int) (load, check Result) {
	t.Helper()
	l := New(blocks, rand.Uint64())
	ld := l.Start(t.Context(), 8, dev)
	for ld.Completed() < 3000 || dev.left() > 0 {
		time.Sleep(time.Millisecond)
	}
	return ld.Stop(), l.Check(dev)
}

func TestCorrectDevicePasses(t *testing.T) {
	load, check := run(t, newMemory(100), 100)
	if err := errors.Join(load.Err(), check.Err()); err != nil {
		t.Error(err)
	}
	if check.Stats.Count() != 4 || load.Stats.Count() < 3000 {
		t.Errorf("%d requests of load, %d of check", load.Stats.Count(), check.Stats.Count())
	}
}

// Each way to be wrong is found.
func TestWrongDevicesAreFound(t *testing.T) {
	var old []byte
	n := 0
	// spoil calls f after each write of a block, from the 500th request on.
	const victim = 7
	spoil := func(f func(m *memory, victim []byte)) func(*memory, string, int64, []byte) error {
		return func(m *memory, op string, off int64, p []byte) error {
			if n++; n > 500 && op == "write" && off <= victim*BlockSize && victim*BlockSize < off+int64(len(p)) {
				f(m, m.data[victim*BlockSize:][:BlockSize])
				m.todo--
			}
			return nil
		}
	}
	for _, c := range []struct {
		name, want string
		misbehave  func(m *memory, op string, off int64, p []byte) error
	}{
		{"a flipped bit", "damaged from byte", spoil(func(m *memory, p []byte) { p[BlockSize-1] ^= 1 })},
		{"a lost write", "zeros, but version", spoil(func(m *memory, p []byte) { clear(p) })},
		{"a misplaced write", "data of block", spoil(func(m *memory, p []byte) { copy(m.data, p) })},
		{"a torn write", "damaged from byte", spoil(func(m *memory, p []byte) { clear(p[BlockSize/2:]) })},
		{"an old version", "stale", func(m *memory, op string, off int64, p []byte) error {
			// Every block goes back to what it held at the 100th request, from now on:
			// once could be written over before anybody reads.
			if n++; n == 100 {
				old = append(old[:0], m.data...)
			} else if n >= 2000 {
				copy(m.data, old)
				m.todo = 0
			}
			return nil
		}},
		{"an ignored trim", "stale", func(m *memory, op string, off int64, p []byte) error {
			const at = victim * BlockSize
			if off > at {
				return nil
			}
			if op == "trim" && old != nil && m.data[at] == 0 {
				copy(m.data[at:], old)
				m.todo--
			} else if op == "write" && at < off+int64(len(p)) {
				old = append(old[:0], m.data[at:at+BlockSize]...)
			}
			return nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, old = 0, nil
			dev := newMemory(40)
			dev.misbehave, dev.todo = c.misbehave, 30
			load, check := run(t, dev, 40)
			err := errors.Join(load.Err(), check.Err())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// Errors are no violations, whether the failed write took place or not.
func TestUnknownOutcomes(t *testing.T) {
	dev := newMemory(40)
	rng := rand.New(rand.NewPCG(1, 2))
	saved := make([]byte, len(dev.data))
	dev.misbehave = func(m *memory, op string, off int64, p []byte) error {
		fail := rng.IntN(10) == 0
		if fail && op != "read" && rng.IntN(2) == 0 {
			copy(m.data, saved) // as if it had not been
		}
		copy(saved, m.data)
		if fail {
			return errors.New("injected")
		}
		return nil
	}
	load, check := run(t, dev, 40)
	if len(load.Violations)+len(check.Violations) > 0 {
		t.Errorf("violations: %v %v", load.Violations, check.Violations)
	}
	if len(load.Failures) == 0 || !strings.Contains(load.Err().Error(), "injected") {
		t.Errorf("failures were not recorded: %v", load.Err())
	}
}

// Of single blocks it is told apart what was there before, what never was, and what
// the device refused.
func TestSingles(t *testing.T) {
	l, dev := New(2, 7), newMemory(2)
	change := func(kind Single) []byte {
		t.Helper()
		if err := l.Change(dev, 0, kind); err != nil {
			t.Fatal(err)
		}
		return append([]byte(nil), dev.data[:BlockSize]...)
	}
	read := func(p []byte) (error, bool) {
		t.Helper()
		copy(dev.data, p)
		wrong, older, err := l.Read(dev, 0)
		if err != nil {
			t.Fatal(err)
		}
		return wrong, older
	}
	first := change(WriteBlock)
	zeros := change(WriteZeros)
	if wrong, older := read(first); wrong == nil || !older {
		t.Errorf("the first version after zeros: %v, older %v", wrong, older)
	}
	second := change(WriteBlock)
	if wrong, older := read(zeros); wrong == nil || !older {
		t.Errorf("zeros after the second version: %v, older %v", wrong, older)
	}
	if wrong, older := read(second[1:]); wrong == nil || older {
		t.Errorf("damage: %v, older %v", wrong, older)
	}
	if wrong, _ := read(second); wrong != nil {
		t.Error(wrong)
	}
	if p := change(TrimBlock); string(p) != string(zeros) {
		t.Error("a trim did not arrive")
	}
	if wrong, _ := read(zeros); wrong != nil {
		t.Error(wrong)
	}
	dev.misbehave = func(*memory, string, int64, []byte) error { return errors.New("EIO") }
	if _, _, err := l.Read(dev, 0); err == nil {
		t.Error("a failed read was not told")
	}
}

// A value that was seen stays: a failed write may show late, but not vanish again.
func TestSeenIsSeen(t *testing.T) {
	l, dev := New(1, 7), newMemory(1)
	write := func(answered bool) []byte {
		c := l.claim(0, 1, false)
		p := make([]byte, BlockSize)
		l.fill(c, p)
		l.done(c, answered)
		return p
	}
	read := func(p []byte) error {
		copy(dev.data, p)
		return l.Check(dev).Err()
	}
	first, second := write(true), write(false)
	for _, p := range [][]byte{first, first, second, second} {
		if err := read(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := read(first); err == nil {
		t.Error("a version that was seen vanished, and nobody noticed")
	}
}

// The ledger agrees with a register that is tried step by step.
func TestLedgerIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := New(1, rapid.Uint64().Draw(t, "seed"))
		zeros := make([]byte, BlockSize)
		history := [][]byte{zeros} // content by version
		floor := 0                 // index into history
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "op") {
			case 0, 1: // write or trim, answered or not
				trim := rapid.Bool().Draw(t, "trim")
				c := l.claim(0, 1, trim)
				p := make([]byte, BlockSize)
				if !trim {
					l.fill(c, p)
				}
				history = append(history, p)
				answered := rapid.Bool().Draw(t, "answered")
				l.done(c, answered)
				if answered {
					floor = len(history) - 1
				}
			case 2: // read any version
				v := rapid.IntRange(0, len(history)-1).Draw(t, "version")
				// Zeros of several versions look alike: the oldest allowed one counts.
				legal := -1
				for i := floor; i < len(history); i++ {
					if string(history[i]) == string(history[v]) {
						legal = i
						break
					}
				}
				var floors [1]version
				l.floors(0, floors[:])
				err := l.judge(0, floors[:], history[v])
				if (err == nil) != (legal >= 0) {
					t.Fatalf("version %d with floor %d: %v", v, floor, err)
				}
				if legal >= 0 {
					floor = legal
				}
			}
		}
	})
}

func TestClaimsDoNotOverlap(t *testing.T) {
	l := New(10, 1)
	a := l.claim(4, 3, false)
	if b := l.claim(2, 8, false); len(b.versions) != 2 {
		t.Errorf("got %d blocks, want the 2 before the claimed ones", len(b.versions))
	}
	if b := l.claim(5, 1, false); len(b.versions) != 0 {
		t.Error("claimed twice")
	}
	l.done(a, true)
	if b := l.claim(5, 100, false); len(b.versions) != 5 {
		t.Errorf("got %d blocks, want the 5 up to the end", len(b.versions))
	}
}

func TestCheckTellsWhichBlocksAreGone(t *testing.T) {
	const blocks, gone = 100, 37
	dev := newMemory(blocks)
	dev.misbehave = func(m *memory, op string, off int64, p []byte) error {
		if op == "read" && off <= gone*BlockSize && gone*BlockSize < off+int64(len(p)) {
			return errors.New("EIO")
		}
		return nil
	}
	l := New(blocks, 3)
	if err := l.Fill(dev); err != nil {
		t.Fatal(err)
	}
	r := l.Check(dev)
	if r.Wrong != 0 || r.Failed != 1 || len(r.Failures) != 1 || r.Failures[0].First != gone || r.Failures[0].Count != 1 {
		t.Errorf("got %v", r.Err())
	}
}

func TestStats(t *testing.T) {
	var s Stats
	for range 999 {
		s.add("read", time.Time{}, 100*time.Microsecond)
	}
	s.add("write", time.Time{}, 3*time.Second)
	if q := s.Quantile(0.99); q < 100*time.Microsecond || q > 200*time.Microsecond {
		t.Errorf("p99 %v", q)
	}
	if s.Quantile(1) != 3*time.Second || s.Max() != 3*time.Second || s.MaxOp != "write" {
		t.Errorf("%v", &s)
	}
}

func FuzzDecode(f *testing.F) {
	p := make([]byte, BlockSize)
	f.Add(p)
	encode(p, 1, 2, 3)
	f.Add(p)
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append(b, make([]byte, BlockSize)...)[:BlockSize]
		v, err := decode(b, 1, 2)
		if err != nil {
			return
		}
		want := make([]byte, BlockSize)
		encode(want, 1, 2, v)
		if string(want) != string(b) {
			t.Error("accepted something else than what encode makes")
		}
	})
}
