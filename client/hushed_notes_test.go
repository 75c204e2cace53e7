package client

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"dmps/raid"
)

// Pages were trimmed. One server shows memory of before, and the others answer for the
// headers of the note that tells of the trim, but not for the note: it is not dead, although
// a member lacks it. The volume is refused until they answer.
func TestNotesThatDoNotAnswerAreNotDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, rows = 16, 64
		f := newFakeNet(3)
		l := f.layout(raid.LayoutLog, raid.Geometry{K: 1, M: 2}, n, 1, rows)
		v := openTest(t, f, l)
		if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, 1)), n*raid.PageSize), 0); err != nil {
			t.Fatal(err)
		}
		first := l.Groups[0].Members[0]
		chunk := f.servers[first.Addr].chunks[uint64(first.Chunk)]
		before := slices.Clone(chunk.hdrs)
		if err := v.Trim(0, n*raid.PageSize); err != nil {
			t.Fatal(err)
		}
		closeTest(t, v)
		size := len(before) / rows
		copy(chunk.hdrs[raid.ViewRows*size:], before[raid.ViewRows*size:])
		narrow := func(on bool) {
			f.mu.Lock()
			defer f.mu.Unlock()
			for s := range maps.Values(f.servers) {
				s.narrow = on
			}
		}
		again := func(epoch raid.Epoch) (*Volume, error) {
			l := *l
			l.Epoch, l.FirstEpoch = epoch, false
			return Open(context.Background(), Config{Layout: &l, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(), Patience: 2 * time.Second, DialTimeout: time.Second})
		}
		narrow(true)
		v, err := again(2)
		if err == nil {
			closeTest(t, v)
			t.Fatal("it is opened without the notes")
		}
		narrow(false)
		v, err = again(3)
		if err != nil {
			t.Fatal(err)
		}
		defer closeTest(t, v)
		compareAll(t, v, make([]byte, n*raid.PageSize))
	})
}
