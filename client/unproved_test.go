package client

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"dmps/raid"
)

// A page was written, and one server shows what it held before. The others answer for the
// headers of its row, but not for its page: that says nothing against the row. The volume is
// refused until they answer.
func TestRowsThatDoNotAnswerCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rows = 64
		f := newSlowNet(3)
		l := f.layout(raid.LayoutLog, raid.Geometry{K: 1, M: 2}, 16, 1, rows)
		v := openTest(t, f, l)
		r := rand.New(rand.NewPCG(1, 1))
		if _, err := v.WriteAt(randomBytes(r, raid.PageSize), 0); err != nil {
			t.Fatal(err)
		}
		before := f.copied()
		want := randomBytes(r, raid.PageSize)
		if _, err := v.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		after := f.copied()
		closeTest(t, v)
		first := l.Groups[0].Members[0]
		now, was := after[first.Addr][uint64(first.Chunk)], before[first.Addr][uint64(first.Chunk)]
		size := len(was.hdrs) / rows
		copy(now.hdrs[raid.ViewRows*size:], was.hdrs[raid.ViewRows*size:])
		again := *l
		again.FirstEpoch = false
		o := &found{l: &again, servers: after}
		f, m := o.again(), newFakeMeta(o.l)
		for id := range o.servers {
			narrowFor(f, id, time.Minute)
		}
		if v, err := o.open(context.Background(), f, m, 2); err == nil {
			closeTest(t, v)
			t.Fatal("it is opened without the row")
		}
		time.Sleep(time.Minute)
		v, err := o.open(context.Background(), f, m, 3)
		if err != nil {
			t.Fatal(err)
		}
		defer closeTest(t, v)
		compareAll(t, v, append(want, make([]byte, 15*raid.PageSize)...))
	})
}
