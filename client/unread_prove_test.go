package client

import (
	"sync"
	"testing"
	"testing/synctest"

	"dmps/raid"
)

// A member that does not answer a recovery is compared with the map before it is used, also
// when it is back for the next question.
func TestWhoDoesNotAnswerIsCompared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSlowNet(3)
		v := openTest(t, f, f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, 64, 1, 64))
		defer closeTest(t, v)
		var once sync.Once
		f.mu.Lock()
		f.asked = func() { once.Do(func() { f.cut("s0") }) }
		f.mu.Unlock()
		var bufs [3][]byte
		for c := range bufs {
			bufs[c] = <-v.recoverBufs
			defer func() { v.recoverBufs <- bufs[c] }()
		}
		answered := v.ask(0, 7, func(x *xfer, c raid.Col) {
			x.req.Op, x.req.Count = opReadHeaders, 1
			x.add(0, bufs[c][:v.layout.HeaderBytes(c)], nil)
		})
		if answered != 6 {
			t.Fatalf("members %b answer", answered)
		}
		for c := range raid.Col(3) {
			if unread := v.member(0, c).ref.unread.Load(); unread != (c == 0) {
				t.Errorf("member %d is to be compared: %v", c, unread)
			}
		}
	})
}
