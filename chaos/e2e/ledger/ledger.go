package ledger

import (
	"errors"
	"fmt"
	"sync"
)

// Ledger knows what may be read. Safe for concurrent use.
type Ledger struct {
	seed   uint64
	blocks []block
}

type block struct {
	mu sync.Mutex
	// owned: a write or trim is in flight; the next one must wait for its end.
	owned bool
	// begun is the newest version that was handed out. Content of versions up to it
	// may be on the device.
	begun version
	// floor is the oldest version that a read may return. floor <= begun.
	floor version
	// zeros are the versions, in order, that read as zeros: 0, and trims. Those
	// below the newest that is <= floor are forgotten.
	zeros []version
}

// New makes a ledger for a device of n blocks that read as zeros.
func New(n int, seed uint64) *Ledger {
	l := &Ledger{seed: seed, blocks: make([]block, n)}
	for i := range l.blocks {
		l.blocks[i].zeros = []version{0}
	}
	return l
}

// Blocks is how many blocks there are.
func (l *Ledger) Blocks() int { return len(l.blocks) }

// A claim is the right to change a run of blocks, and the versions they get.
type claim struct {
	first    int
	versions []version
}

// claim takes up to n blocks from first on, as many as nobody else changes. An
// empty claim means that already the first is taken.
func (l *Ledger) claim(first, n int, trim bool) claim {
	c := claim{first: first}
	for i := first; i < min(first+n, len(l.blocks)); i++ {
		b := &l.blocks[i]
		b.mu.Lock()
		if b.owned {
			b.mu.Unlock()
			break
		}
		b.owned = true
		b.begun++
		if trim {
			b.zeros = append(b.zeros, b.begun)
		}
		c.versions = append(c.versions, b.begun)
		b.mu.Unlock()
	}
	return c
}

// fill writes the contents of the claimed blocks into p.
func (l *Ledger) fill(c claim, p []byte) {
	for i, v := range c.versions {
		encode(p[i*BlockSize:], l.seed, uint64(c.first+i), v)
	}
}

// done ends a claim. answered says that the device has confirmed it; else its
// outcome is unknown, for ever or until a read shows it.
func (l *Ledger) done(c claim, answered bool) {
	for i, v := range c.versions {
		b := &l.blocks[c.first+i]
		b.mu.Lock()
		b.owned = false
		if answered {
			b.raise(v)
		}
		b.mu.Unlock()
	}
}

// raise says that nothing older than v may be read from now on.
func (b *block) raise(v version) {
	b.floor = max(b.floor, v)
	for len(b.zeros) > 1 && b.zeros[1] <= b.floor {
		b.zeros = b.zeros[1:]
	}
}

// floors notes, before a read is sent, what each block may return at least.
func (l *Ledger) floors(first int, into []version) {
	for i := range into {
		b := &l.blocks[first+i]
		b.mu.Lock()
		into[i] = b.floor
		b.mu.Unlock()
	}
}

// judge checks what a read returned that was sent when floors were as given.
func (l *Ledger) judge(first int, floors []version, p []byte) error {
	var errs []error
	for i, floor := range floors {
		n := first + i
		if err := l.judgeBlock(n, floor, p[i*BlockSize:(i+1)*BlockSize]); err != nil {
			errs = append(errs, &Violation{Block: n, Err: err})
		}
	}
	return errors.Join(errs...)
}

func (l *Ledger) judgeBlock(n int, floor version, p []byte) error {
	v, err := decode(p, l.seed, uint64(n))
	b := &l.blocks[n]
	b.mu.Lock()
	defer b.mu.Unlock()
	if errors.Is(err, errZeros) {
		return b.judgeZeros(floor)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w (version %d was due)", err, floor)
	case v < floor:
		return fmt.Errorf("%w: version %d, but version %d was answered or seen before", errOlder, v, floor)
	case v > b.begun:
		return fmt.Errorf("version %d, which was never written (newest is %d)", v, b.begun)
	}
	b.raise(v)
	return nil
}

// judgeZeros accepts zeros when some version from the floor on reads so. If
// there are several it cannot be told which one was read: the oldest is assumed.
func (b *block) judgeZeros(floor version) error {
	for _, z := range b.zeros {
		if z >= floor {
			b.raise(z)
			return nil
		}
	}
	return fmt.Errorf("%w: zeros, but version %d was answered or seen before", errOlder, floor)
}

// errOlder is content that a block has had, before what it must hold now.
var errOlder = errors.New("stale")

// Violation is a block that returned what it must not.
type Violation struct {
	Block int
	Err   error
}

func (v *Violation) Error() string {
	return fmt.Sprintf("block %d (offset %d): %v", v.Block, int64(v.Block)*BlockSize, v.Err)
}

func (v *Violation) Unwrap() error { return v.Err }
